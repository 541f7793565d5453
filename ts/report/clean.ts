/** The section of a cleaned source: its funnel, lengths, characters, and rows that fell. */
import { bar, count, folded, histogram, percent, table } from "./charts.ts"
import { html } from "./html.ts"
import type { Html } from "./html.ts"
import type { CleanReport, Lengths } from "./schema.ts"

const share = (part: number, whole: number) => (whole === 0 ? 0 : part / whole)

/** Some facts in a row. */
export const facts = (list: ReadonlyArray<readonly [string, string]>): Html =>
  html`<dl class="facts">
    ${list.map(
      ([name, value]) =>
        html`<div>
          <dt>${name}</dt>
          <dd>${value}</dd>
        </div>`
    )}
  </dl>`

/** A count and its share; nothing is nothing. */
const counted = (part: number, whole: number): Html =>
  html`${count(part)}${part > 0 && html` <span class="note">${percent(share(part, whole))}</span>`}`

const funnel = ({ rows, funnel: rules }: CleanReport): Html => {
  const { read, kept, broken } = rows
  const lines = rules.map(({ rule, action, reached, dropped, changed }) => [
    rule,
    bar([share(reached - dropped, read), "main"], [share(dropped, read), "drop"]),
    dropped === 0 && action !== "drop" ? "" : counted(dropped, reached),
    changed === 0 ? "" : counted(changed, reached),
    reached - dropped
  ])
  const ends = (name: string, left: number, fell: number) => [
    html`<em>${name}</em>`,
    bar([share(left, read), "main"], [share(fell, read), "drop"]),
    fell === 0 ? "" : count(fell),
    "",
    left
  ]
  return html`<h3>Rows, rule by rule</h3>
    <p class="note">
      Of the rows read:<span class="key main"></span>left after the rule<span class="key drop"></span>dropped
      by it. Shares are of the rows that reached the rule.
    </p>
    ${table(
      ["rule", "rows", "dropped", "rewritten", "left"],
      [
        ...(broken > 0 ? [ends("could not be read", read - broken, broken)] : []),
        ...lines,
        ends("kept", kept, 0)
      ]
    )}`
}

const named = (q: number) => (q === 0.5 ? "median" : `${count(q * 100)} %`)

/** The histogram of a column's lengths with its quantiles. */
export const lengths = (title: string, found: Lengths, unit = "characters"): Html => {
  const columns = found.histogram.map(({ from, to, count: value }) => ({
    label: to - from === 1 ? count(from) : `${count(from)}–${count(to - 1)}`,
    value
  }))
  const quantiles = found.quantiles.map(({ q, value }) => `${named(q)}: ${count(value)}`).join(" · ")
  return html`<div>
    ${histogram(title, unit, columns)}
    <p class="note">
      ${found.mean !== null && html`${count(found.min ?? 0)} to ${count(found.max ?? 0)} ${unit}, ${count(found.mean)} on average. Quantiles: `}${quantiles}
    </p>
  </div>`
}

/** Signs that show nothing by themselves, by their names or code points. */
export const visible = (character: string): string => {
  const code = character.codePointAt(0) ?? 0
  const name = { 0x09: "tab", 0x0a: "line", 0x20: "space", 0x30_00: "wide space" }[code]
  if (name !== undefined) return name
  return /^[\p{Z}\p{C}\p{M}]/u.test(character)
    ? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`
    : character
}

const characters = ({ characters: { total, classes, frequent } }: CleanReport): Html => {
  const most = Math.max(...classes.map((one) => one.share), 0)
  const code = (sign: string) => `U+${(sign.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}`
  return html`<h3>Characters of the kept rows</h3>
    ${table(
      ["class", "share", "", "count"],
      classes.map(({ class: name, count: found, share: part }) => [
        name,
        bar([share(part, most), "main"]),
        percent(part),
        found
      ])
    )}
    <p class="note">${count(total)} characters in all. The most frequent:</p>
    <ul class="chips">
      ${frequent.map(
        ({ character, count: found }) =>
          html`<li title="${code(character)}">
            <b><bdi>${visible(character)}</bdi></b
            ><span>${percent(share(found, total))}</span>
          </li>`
      )}
    </ul>`
}

const text = (value: unknown): string => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""))

/** A row's fields, each on its line. */
export const sample = (
  place: string,
  fields: Readonly<Record<string, unknown>>,
  tone: "" | "kept" = ""
): Html =>
  html`<div class="sample ${tone}">
    <p class="note">${place}</p>
    <dl>
      ${Object.entries(fields).map(
        ([name, value]) =>
          html`<dt>${name}</dt>
            <dd><bdi>${text(value)}</bdi></dd>`
      )}
    </dl>
  </div>`

const rejects = ({ rejects: rows, funnel: rules }: CleanReport): Html | undefined => {
  if (rows.length === 0) return undefined
  const groups = Map.groupBy(rows, ({ rule }) => rule)
  const dropped = new Map(rules.map((one) => [one.rule, one.dropped]))
  return html`<h3>Rows that fell, a few of each rule</h3>
    ${[...groups].map(([rule, some]) => {
      const all = dropped.get(rule)
      return folded(
        `${rule}: ${some.length}${all === undefined ? "" : ` of ${count(all)}`}`,
        html`${some.map(({ file, row, fields }) => sample(`${file}, row ${count(row)}`, fields))}`
      )
    })}`
}

/** What a section is called where no other is called the same. */
export const cleanTitle = ({ source, purpose }: CleanReport): string => `${source}, for ${purpose}`

/** The section of one source. */
export const cleanSection = (report: CleanReport, title: string, id: string): Html => {
  const { rows, inputs, compat, undecodable = 0, mended = 0 } = report
  return html`<section id="${id}">
    <h2>${title}</h2>
    <p class="note">${inputs.join(", ")}${compat && ", as the reference program cleans"}</p>
    ${facts([
      ["read", count(rows.read)],
      ["kept", `${count(rows.kept)} (${percent(share(rows.kept, rows.read))})`],
      ["dropped", count(rows.dropped)],
      ...(rows.broken > 0 ? [["not readable", count(rows.broken)] as const] : []),
      ...(mended > 0 ? [["mended", count(mended)] as const] : []),
      ...(undecodable > 0 ? [["broken bytes", count(undecodable)] as const] : [])
    ])}
    ${funnel(report)}
    <h3>Lengths of the kept rows</h3>
    <div class="pair">
      ${Object.entries(report.lengths).map(([column, found]) => lengths(`Length of ${column}`, found))}
    </div>
    ${characters(report)} ${rejects(report)}
  </section>`
}
