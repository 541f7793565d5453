/** The page: one file that asks for nothing else, runs no script, and shows data as text alone. */
import { bar, count, percent, table } from "./charts.ts"
import { cleanSection, cleanTitle } from "./clean.ts"
import { dedupSection } from "./dedup.ts"
import { Html, html } from "./html.ts"
import type { CleanReport, Named } from "./schema.ts"
import { style } from "./style.ts"
import { tokenizerSection, tokenizerTitle } from "./tokenizer.ts"

const titleOf = ({ report }: Named): string => {
  if (report.kind === "clean") return cleanTitle(report)
  return report.kind === "dedup" ? "Duplicates" : tokenizerTitle(report)
}

/** The reports' titles; those that are called the same are told apart by their files. */
const titlesOf = (reports: ReadonlyArray<Named>): ReadonlyArray<string> => {
  const plain = reports.map(titleOf)
  return reports.map(({ file }, place) => {
    const title = plain[place] ?? ""
    return plain.filter((other) => other === title).length > 1 ? `${title} (${file})` : title
  })
}

const section = ({ report }: Named, title: string, id: string) => {
  if (report.kind === "clean") return cleanSection(report, title, id)
  return report.kind === "dedup" ? dedupSection(report, title, id) : tokenizerSection(report, title, id)
}

/** All sources beside each other, as long bars as they have rows. */
const overview = (
  reports: ReadonlyArray<{ readonly title: string; readonly rows: CleanReport["rows"] }>
): Html | undefined => {
  if (reports.length < 2) return undefined
  const most = Math.max(...reports.map(({ rows }) => rows.read), 1)
  const sum = (part: "read" | "kept" | "dropped" | "broken") =>
    reports.reduce((total, { rows }) => total + rows[part], 0)
  const line = (name: Html | string, read: number, kept: number, fell: number, whole: number) => [
    name,
    bar([kept / whole, "main"], [fell / whole, "drop"]),
    read,
    kept,
    percent(read === 0 ? 0 : kept / read)
  ]
  return html`<section id="sources">
    <h2>Sources</h2>
    <p class="note">
      Rows<span class="key main"></span>kept<span class="key drop"></span>dropped or not readable, at one
      scale.
    </p>
    ${table(
      ["source", "rows", "read", "kept", "share"],
      [
        ...reports.map(({ title, rows: { read, kept, dropped, broken } }) =>
          line(title, read, kept, dropped + broken, most)
        ),
        line(
          html`<em>all</em>`,
          sum("read"),
          sum("kept"),
          sum("dropped") + sum("broken"),
          Math.max(1, sum("read"))
        )
      ]
    )}
  </section>`
}

/** The page of these reports, in their order. */
export const page = (reports: ReadonlyArray<Named>): string => {
  const titles = titlesOf(reports)
  const cleaned = reports.flatMap(({ report }, place) =>
    report.kind === "clean" ? [{ title: titles[place] ?? "", rows: report.rows }] : []
  )
  const ids = reports.map((_, place) => `report-${place + 1}`)
  const links = titles.map((title, place) => html`<li><a href="#${ids[place]}">${title}</a></li>`)
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta
          http-equiv="Content-Security-Policy"
          content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
        />
        <title>Data report</title>
        <style>
          ${new Html(style)}
        </style>
      </head>
      <body>
        <header>
          <h1>Data report</h1>
          <p class="note">
            ${count(reports.length)} ${reports.length === 1 ? "report" : "reports"}. Lengths are in
            characters. Rows are counted from 0.
          </p>
        </header>
        ${
          reports.length > 1 &&
          html`<nav aria-label="Reports">
            <ul>
              ${links}
            </ul>
          </nav>`
        }
        <main>
          ${overview(cleaned)}${reports.map((report, place) => section(report, titles[place] ?? "", ids[place] ?? ""))}
        </main>
      </body>
    </html> `.text
}
