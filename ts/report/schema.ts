/**
 * The reports that the core writes as JSON (docs/reports.md). Unknown keys are passed over, so that a page can
 * be made of a later version's report too.
 */
import * as Schema from "effect/Schema"

const Count = Schema.Number

/** Texts of a column by length. */
export const Lengths = Schema.Struct({
  count: Count,
  min: Schema.NullOr(Count),
  max: Schema.NullOr(Count),
  mean: Schema.NullOr(Schema.Number),
  quantiles: Schema.Array(Schema.Struct({ q: Schema.Number, value: Schema.Number })),
  histogram: Schema.Array(Schema.Struct({ from: Schema.Number, to: Schema.Number, count: Count }))
})
export type Lengths = typeof Lengths.Type

/** What the rules of a source did, one after another. */
export const Rule = Schema.Struct({
  rule: Schema.String,
  action: Schema.String,
  reached: Count,
  dropped: Count,
  changed: Count
})

/** `kind: "clean"`. */
export const CleanReport = Schema.Struct({
  kind: Schema.Literal("clean"),
  source: Schema.String,
  purpose: Schema.String,
  compat: Schema.Boolean,
  inputs: Schema.Array(Schema.String),
  rows: Schema.Struct({ read: Count, kept: Count, dropped: Count, broken: Count }),
  undecodable: Schema.optionalKey(Count),
  mended: Schema.optionalKey(Count),
  funnel: Schema.Array(Rule),
  lengths: Schema.Record(Schema.String, Lengths),
  characters: Schema.Struct({
    total: Count,
    classes: Schema.Array(Schema.Struct({ class: Schema.String, count: Count, share: Schema.Number })),
    frequent: Schema.Array(Schema.Struct({ character: Schema.String, count: Count }))
  }),
  rejects: Schema.Array(
    Schema.Struct({
      rule: Schema.String,
      file: Schema.String,
      row: Schema.Number,
      fields: Schema.Record(Schema.String, Schema.Unknown)
    })
  )
})
export type CleanReport = typeof CleanReport.Type

/** `kind: "dedup"` (docs/dedup.md). */
export const DedupReport = Schema.Struct({
  kind: Schema.Literal("dedup"),
  rows: Count,
  kept: Count,
  duplicates: Count,
  contaminated: Count,
  clusters: Count,
  /** Rows that fell by their similarity, in bins of a hundredth; empty ones are left out. */
  similarities: Schema.Array(Schema.Struct({ from: Schema.Number, rows: Count })),
  /** Clusters by their rows, `from` to `to`. */
  cluster_sizes: Schema.Array(Schema.Struct({ from: Count, to: Count, clusters: Count })),
  largest: Schema.Array(
    Schema.Struct({
      cluster: Schema.Number,
      size: Count,
      rows: Schema.Array(Schema.Struct({ row: Schema.Number, text: Schema.String }))
    })
  ),
  settings: Schema.Struct({
    threshold: Schema.Number,
    ngram: Count,
    num_perm: Count,
    chance_at_threshold: Schema.optionalKey(Schema.Number),
    compat: Schema.Boolean,
    against: Schema.Array(Schema.String)
  }),
  seconds: Schema.Struct({ all: Schema.Number }),
  peak_rss_bytes: Count
})
export type DedupReport = typeof DedupReport.Type

/** What one tokenizer makes of the texts; shares are between 0 and 1. */
const TokenizerFigures = Schema.Struct({
  folder: Schema.String,
  vocab_size: Count,
  tokens: Count,
  characters_per_token: Schema.Number,
  bytes_per_token: Schema.Number,
  unknown: Schema.Struct({
    tokens: Count,
    share: Schema.Number,
    characters: Count,
    occurrences: Count,
    character_share: Schema.Number,
    frequent: Schema.Array(Schema.Struct({ character: Schema.String, count: Count }))
  }),
  round_trip: Schema.Struct({
    texts: Count,
    exact: Count,
    normalized: Count,
    failed: Count,
    failed_share: Schema.Number,
    reasons: Schema.Record(Schema.String, Count),
    examples: Schema.Array(
      Schema.Struct({
        file: Schema.String,
        row: Schema.Number,
        reason: Schema.String,
        text: Schema.String,
        back: Schema.String
      })
    )
  }),
  unused: Schema.Struct({
    tokens: Count,
    of: Count,
    share: Schema.Number,
    first: Schema.Array(Schema.String)
  }),
  longest: Schema.Array(
    Schema.Struct({ id: Schema.Number, text: Schema.String, characters: Count, uses: Count })
  ),
  scripts: Schema.Array(
    Schema.Struct({ script: Schema.String, entries: Count, uses: Count, share: Schema.Number })
  ),
  tokens_per_row: Lengths
})
export type TokenizerFigures = typeof TokenizerFigures.Type

/** `kind: "tokenizer"` (docs/tokenizer-report.md). */
export const TokenizerReport = Schema.Struct({
  kind: Schema.Literal("tokenizer"),
  inputs: Schema.Array(Schema.String),
  rows: Count,
  texts: Count,
  characters: Count,
  bytes: Count,
  scripts: Schema.Array(Schema.Struct({ script: Schema.String, characters: Count, share: Schema.Number })),
  /** The one asked about, then those beside it. */
  tokenizers: Schema.Array(TokenizerFigures),
  seconds: Schema.Number
})
export type TokenizerReport = typeof TokenizerReport.Type

export type DataReport = CleanReport | DedupReport | TokenizerReport

/** A report and the name of the file that held it. */
export interface Named {
  readonly file: string
  readonly report: DataReport
}
