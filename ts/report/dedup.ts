/** The section of a deduplication: what fell, how alike it was, and the largest groups. */
import { bar, count, folded, histogram, percent } from "./charts.ts"
import { facts, sample } from "./clean.ts"
import { html } from "./html.ts"
import type { Html } from "./html.ts"
import type { DedupReport } from "./schema.ts"

const share = (part: number, whole: number) => (whole === 0 ? 0 : part / whole)

/** The rows that fell by similarity, with the empty bins between them; the last bin is 1 alone. */
const similarities = ({ similarities: bins }: DedupReport) => {
  const rows = new Map(bins.map(({ from, rows }) => [Math.round(from * 100), rows]))
  const first = Math.min(...rows.keys(), 100)
  return Array.from({ length: 101 - first }, (_, place) => {
    const from = first + place
    const label = from === 100 ? "1" : `${(from / 100).toFixed(2)}–${((from + 1) / 100).toFixed(2)}`
    return { label, value: rows.get(from) ?? 0 }
  })
}

const sizes = ({ cluster_sizes }: DedupReport) =>
  cluster_sizes.map(({ from, to, clusters }) => ({
    label: from === to ? count(from) : `${count(from)}–${count(to)}`,
    value: clusters
  }))

const largest = ({ largest: clusters }: DedupReport): Html | undefined =>
  clusters.length === 0
    ? undefined
    : html`<h3>The largest clusters, the first rows of each</h3>
        ${clusters.map(({ cluster, size, rows }) =>
          folded(
            `${count(size)} rows like row ${count(cluster)}`,
            html`${rows.map(({ row, text }) => sample(`row ${count(row)}`, { text }, row === cluster ? "kept" : ""))}`
          )
        )}`

const how = ({
  settings: { threshold, ngram, num_perm, compat, against, chance_at_threshold }
}: DedupReport) =>
  html`A row falls when an earlier one has a Jaccard similarity of ${threshold} or more, by ${ngram}
  ${ngram === 1 ? "character" : "characters"} at a time, ${count(num_perm)}
  permutations${compat && ", as the reference program finds them"}.${
    against.length > 0 && html` It also falls where it resembles a row of ${against.join(", ")}.`
  }${
    chance_at_threshold !== undefined &&
    !compat &&
    html` A pair at the threshold is found with a chance of ${percent(chance_at_threshold)}.`
  }`

/** The section of one deduplication. */
export const dedupSection = (report: DedupReport, title: string, id: string): Html => {
  const { rows, kept, duplicates, contaminated, clusters } = report
  return html`<section id="${id}">
    <h2>${title}</h2>
    <p class="note">${how(report)}</p>
    ${facts([
      ["read", count(rows)],
      ["kept", `${count(kept)} (${percent(share(kept, rows))})`],
      ["duplicates", count(duplicates)],
      ...(contaminated > 0 ? [["resemble the other set", count(contaminated)] as const] : []),
      ["clusters", count(clusters)],
      ["seconds", count(report.seconds.all)],
      ["memory at most", `${count(report.peak_rss_bytes / 1e6)} MB`]
    ])}
    ${bar([share(kept, rows), "main"], [share(duplicates, rows), "drop"], [share(contaminated, rows), "mute"])}
    <p class="note">
      <span class="key main"></span>kept<span class="key drop"></span
      >duplicates${contaminated > 0 && html`<span class="key mute"></span>resemble the other set`}
    </p>
    <div class="pair">
      <div>${histogram("Clusters by their rows", "rows", sizes(report))}</div>
      <div>
        ${histogram("Rows that fell, by their similarity to the earliest row like them", "similarity", similarities(report))}
      </div>
    </div>
    ${largest(report)}
  </section>`
}
