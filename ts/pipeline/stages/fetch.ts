/** Files of a hub: rows, a model or a tokenizer. */
import { realpath } from "node:fs/promises"
import { join } from "node:path"

import * as Effect from "effect/Effect"

import { fetchSnapshot } from "../../fetch/fetch.ts"
import type { Purpose } from "../../fetch/fetch.ts"
import type { Artifact } from "../artifact.ts"
import { attempt, linkOrCopy } from "../files.ts"
import { stage } from "../stage.ts"

/** What a hub may hold for a pipeline. */
type Fetched = "rows" | "pairs" | "preferences" | "model" | "tokenizer"

/** The options of `fetch`. */
export interface FetchOptions<K extends Fetched> {
  readonly name?: string
  /** What the files are. */
  readonly kind: K
  /**
   * Such as `hf:datasets/owner/name@COMMIT:data/*.parquet`. What a branch names is fetched once and kept, until
   * `--rerun` asks again; with a commit the pipeline is the same for everyone.
   */
  readonly from: string
}

const isTable = (kind: Fetched) => kind !== "model" && kind !== "tokenizer"
const purposeOf = (kind: Fetched): Purpose => (kind === "model" || kind === "tokenizer" ? kind : "data")

/** Fetches what a reference names; see `chatlm fetch`. The cache and this result share their disk space. */
export const fetch = <K extends Fetched>({ name = "fetch", kind, from }: FetchOptions<K>): Artifact<K> =>
  stage({
    name,
    version: 1,
    settings: { from },
    inputs: {},
    outputs: { files: { kind, path: "files" } },
    isSource: true,
    work: ({ outputs }) =>
      Effect.gen(function* () {
        const report = yield* fetchSnapshot({
          from,
          purpose: purposeOf(kind),
          kinds: isTable(kind) ? ["dataset", "model"] : ["model"]
        })
        for (const file of report.files) {
          // Rows are looked for in a folder, not below it.
          const place = isTable(kind) ? file.replaceAll("/", "--") : file
          const blob = yield* attempt(file, () => realpath(join(report.folder, file)))
          yield* linkOrCopy(blob, join(outputs.files, place))
        }
        return { rows: { files: report.files.length }, figures: { bytes: report.bytes } }
      })
  }).files
