/** The section of tokenizers: what each makes of the same texts, beside each other. */
import { bar, count, folded, percent, table } from "./charts.ts"
import { facts, lengths, sample, visible } from "./clean.ts"
import { html } from "./html.ts"
import type { Html } from "./html.ts"
import type { TokenizerFigures, TokenizerReport } from "./schema.ts"

const fixed = (value: number) => value.toFixed(3)

/** A figure's name, its value as text, and as a length at the scale of the largest. */
const compared: ReadonlyArray<
  readonly [string, (figures: TokenizerFigures) => string, (figures: TokenizerFigures) => number]
> = [
  ["vocabulary", (one) => count(one.vocab_size), (one) => one.vocab_size],
  ["tokens", (one) => count(one.tokens), (one) => one.tokens],
  ["characters a token", (one) => fixed(one.characters_per_token), (one) => one.characters_per_token],
  ["bytes a token", (one) => fixed(one.bytes_per_token), (one) => one.bytes_per_token],
  ["unknown tokens", (one) => percent(one.unknown.share), (one) => one.unknown.share],
  ["unknown characters", (one) => percent(one.unknown.character_share), (one) => one.unknown.character_share],
  [
    "texts that do not come back",
    (one) => percent(one.round_trip.failed_share),
    (one) => one.round_trip.failed_share
  ],
  ["vocabulary never used", (one) => percent(one.unused.share), (one) => one.unused.share]
]

const comparison = (tokenizers: ReadonlyArray<TokenizerFigures>): Html =>
  html`<h3>Beside each other</h3>
    ${table(
      ["", ...tokenizers.map(({ folder }) => folder)],
      compared.map(([name, text, size]) => {
        const most = Math.max(...tokenizers.map(size), Number.MIN_VALUE)
        return [name, ...tokenizers.map((one) => html`${text(one)}${bar([size(one) / most, "main"])}`)]
      })
    )}`

const scripts = ({ scripts: found }: TokenizerFigures): Html => {
  const most = Math.max(...found.map(({ share }) => share), Number.MIN_VALUE)
  return html`<h3>Tokens by writing system</h3>
    ${table(
      ["writing system", "", "share", "uses", "vocabulary"],
      found.map(({ script, entries, uses, share }) => [
        script,
        bar([share / most, "main"]),
        percent(share),
        uses,
        entries
      ])
    )}`
}

const chips = (list: ReadonlyArray<readonly [string, string]>): Html =>
  html`<ul class="chips">
    ${list.map(
      ([text, note]) =>
        html`<li>
          <b><bdi>${text}</bdi></b
          ><span>${note}</span>
        </li>`
    )}
  </ul>`

const unknown = ({ unknown: found }: TokenizerFigures): Html | undefined =>
  found.characters === 0
    ? undefined
    : html`<h3>Unknown characters</h3>
        <p class="note">
          ${count(found.characters)} different ones, ${count(found.occurrences)} times. The most frequent:
        </p>
        ${chips(found.frequent.map(({ character, count: times }) => [visible(character), count(times)]))}`

const reasons: Readonly<Record<string, string>> = {
  unknown: "hold unknown characters",
  spaces: "differ in white space",
  other: "differ otherwise"
}

const roundTrips = ({ round_trip: trip }: TokenizerFigures): Html =>
  html`<h3>Round trips</h3>
    <p class="note">
      Encoded and decoded again, ${count(trip.exact)} of ${count(trip.texts)} texts come back as they were,
      ${count(trip.normalized)} as the tokenizer normalizes them, ${count(trip.failed)} do
      not${
        trip.failed > 0 &&
        html`:
        ${Object.entries(trip.reasons)
          .map(([reason, texts]) => `${count(texts)} ${reasons[reason] ?? reason}`)
          .join(", ")}`
      }.
    </p>
    ${trip.examples.map(({ file, row, reason, text, back }) =>
      sample(`${file}, row ${count(row)} (${reason})`, { text, back })
    )}`

const vocabulary = ({ longest, unused }: TokenizerFigures): Html =>
  html`<h3>Vocabulary</h3>
    <p class="note">
      ${count(unused.tokens)} of ${count(unused.of)} tokens (${percent(unused.share)}) are never used.
    </p>
    ${folded(
      "The longest tokens",
      table(
        ["token", "characters", "uses"],
        longest.map(({ text, characters, uses }) => [html`<bdi>${text}</bdi>`, characters, uses])
      )
    )}
    ${unused.first.length > 0 && folded("Some that are never used", chips(unused.first.map((text) => [text, ""])))}`

const figures = (one: TokenizerFigures, alone: boolean): Html =>
  html`${!alone && html`<h2>${one.folder}</h2>`}
    ${facts([
      ["vocabulary", count(one.vocab_size)],
      ["tokens", count(one.tokens)],
      ["characters a token", fixed(one.characters_per_token)],
      ["bytes a token", fixed(one.bytes_per_token)],
      ["unknown tokens", percent(one.unknown.share)],
      ["do not come back", percent(one.round_trip.failed_share)],
      ["never used", percent(one.unused.share)]
    ])}
    <div class="pair">
      <div>${lengths("Tokens a row", one.tokens_per_row, "tokens")}</div>
      <div>${scripts(one)}</div>
    </div>
    ${unknown(one)} ${roundTrips(one)} ${vocabulary(one)}`

/** What a section is called, in its head and in the list of sections. */
export const tokenizerTitle = ({ tokenizers }: TokenizerReport): string =>
  `${tokenizers.length === 1 ? "Tokenizer" : "Tokenizers"} ${tokenizers.map(({ folder }) => folder).join(", ")}`

/** The section of one report. */
export const tokenizerSection = (report: TokenizerReport, title: string, id: string): Html => {
  const { inputs, rows, texts, characters, bytes, scripts: written, tokenizers } = report
  return html`<section id="${id}">
    <h2>${title}</h2>
    <p class="note">${inputs.join(", ")}</p>
    ${facts([
      ["rows", count(rows)],
      ["texts", count(texts)],
      ["characters", count(characters)],
      ["bytes", count(bytes)]
    ])}
    <p class="note">
      Characters: ${written.map(({ script, share }) => `${script} ${percent(share)}`).join(" · ")}
    </p>
    ${tokenizers.length > 1 && comparison(tokenizers)}
    ${tokenizers.map((one) => figures(one, tokenizers.length === 1))}
  </section>`
}
