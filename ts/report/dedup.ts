/** The section of a deduplication: what fell, how alike it was, and the largest groups. */
import { bar, count, folded, histogram, percent } from "./charts.ts"
import { facts, sample } from "./clean.ts"
import { html } from "./html.ts"
import type { Html } from "./html.ts"
import type { DedupReport } from "./schema.ts"

const share = (part: number, whole: number) => (whole === 0 ? 0 : part / whole)

const largest = ({ clusters }: DedupReport): Html | undefined =>
  clusters.largest.length === 0
    ? undefined
    : html`<h3>The largest clusters</h3>
        ${clusters.largest.map(({ cluster, size, rows }) =>
          folded(
            `${count(size)} rows around row ${count(cluster)}`,
            html`${rows.map(({ row, similarity, fields }) =>
              sample(
                `row ${count(row)}${similarity === undefined || similarity === null ? "" : `, similarity ${similarity.toFixed(3)}`}`,
                fields,
                row === cluster ? "kept" : ""
              )
            )}`
          )
        )}`

/** What a section is called, in its head and in the list of sections. */
export const dedupTitle = ({ inputs }: DedupReport): string => `Duplicates in ${inputs.join(", ")}`

/** The section of one deduplication. */
export const dedupSection = (report: DedupReport, id: string): Html => {
  const { rows, clusters, similarity, threshold, ngram } = report
  const range = (from: number, to: number) =>
    to - from === 1 ? count(from) : `${count(from)}–${count(to - 1)}`
  return html`<section id="${id}">
    <h2>${dedupTitle(report)}</h2>
    <p class="note">
      A row falls when an earlier one has a Jaccard similarity of ${threshold} or more, by ${ngram} characters
      at a time.
    </p>
    ${facts([
      ["read", count(rows.read)],
      ["kept", `${count(rows.kept)} (${percent(share(rows.kept, rows.read))})`],
      ["duplicates", count(rows.duplicates)],
      ...(rows.contaminated > 0 ? [["resemble the other set", count(rows.contaminated)] as const] : []),
      ["clusters", count(clusters.count)]
    ])}
    ${bar([share(rows.kept, rows.read), "main"], [share(rows.duplicates, rows.read), "drop"], [share(rows.contaminated, rows.read), "mute"])}
    <p class="note">
      <span class="key main"></span>kept<span class="key drop"></span
      >duplicates${rows.contaminated > 0 && html`<span class="key mute"></span>resemble the other set`}
    </p>
    <div class="pair">
      <div>
        ${histogram(
          "Rows a cluster",
          "rows",
          clusters.sizes.map(({ from, to, count: value }) => ({ label: range(from, to), value }))
        )}
      </div>
      <div>
        ${histogram(
          "Similarity of what fell to the earliest row like it",
          "Jaccard",
          similarity.map(({ from, to, count: value }) => ({
            label: `${from.toFixed(2)}–${to.toFixed(2)}`,
            value
          }))
        )}
      </div>
    </div>
    ${largest(report)}
  </section>`
}
