/**
 * Charts without a script. A bar is a cell of a table, so the table is the chart; a histogram is drawn as SVG
 * with its table behind it.
 */
import { html } from "./html.ts"
import type { Html } from "./html.ts"

/** A count with its thousands apart. */
export const count = (value: number): string => value.toLocaleString("en-US", { maximumFractionDigits: 1 })

/** A share as a percentage that does not round something to nothing, nor almost all to all. */
export const percent = (share: number): string => {
  if (share === 0 || share === 1) return `${share * 100} %`
  const digits = share < 0.001 || share > 0.999 ? 2 : share < 0.1 || share > 0.9 ? 1 : 0
  const text = (share * 100).toFixed(digits)
  if (Number(text) === 0) return "< 0.01 %"
  return Number(text) === 100 ? "> 99.99 %" : `${text} %`
}

const clamp = (share: number) => Math.max(0, Math.min(1, Number.isFinite(share) ? share : 0))

/** Parts of a bar, each with the share of the whole width that it takes. */
export const bar = (
  ...parts: ReadonlyArray<readonly [share: number, tone: "main" | "drop" | "mute"]>
): Html => {
  const pieces = parts.map(
    ([share, tone]) => html`<i class="${tone}" style="width:${(clamp(share) * 100).toFixed(2)}%"></i>`
  )
  return html`<span class="bar" aria-hidden="true">${pieces}</span>`
}

export interface Column {
  readonly label: string
  readonly value: number
}

/** A table under a line that opens it. */
export const folded = (summary: string, body: Html): Html =>
  html`<details>
    <summary>${summary}</summary>
    ${body}
  </details>`

type Cell = Html | string | number

/** Whether a cell is to be read as a figure: those stand under each other by their last digits. */
const isFigure = (cell: Cell | undefined) =>
  typeof cell === "number" || (typeof cell === "string" && /^[<>\d.,\s]+%$/.test(cell))

/** Rows of a table; the first cell of each is its head. */
export const table = (
  head: ReadonlyArray<string>,
  rows: ReadonlyArray<ReadonlyArray<Cell>>,
  label?: string
): Html => {
  const text = (cell: Cell) => (typeof cell === "number" ? count(cell) : cell)
  const cell = (value: Cell) =>
    isFigure(value) ? html`<td class="number">${text(value)}</td>` : html`<td>${text(value)}</td>`
  const line = ([first = "", ...rest]: ReadonlyArray<Cell>) =>
    html`<tr>
      <th scope="row">${text(first)}</th>
      ${rest.map(cell)}
    </tr>`
  const title = (name: string, place: number) =>
    rows.some((row) => place > 0 && isFigure(row[place]))
      ? html`<th scope="col" class="number">${name}</th>`
      : html`<th scope="col">${name}</th>`
  return html`<div class="wide">
    <table>
      ${
        label !== undefined &&
        html`<caption>
          ${label}
        </caption>`
      }
      <thead>
        <tr>
          ${head.map(title)}
        </tr>
      </thead>
      <tbody>
        ${rows.map(line)}
      </tbody>
    </table>
  </div>`
}

const width = 420
const height = 150
const floor = 120

/** A histogram: columns of equal width, whatever their ranges, with the largest as high as there is room. */
export const histogram = (title: string, unit: string, columns: ReadonlyArray<Column>): Html => {
  if (columns.length === 0) return html`<p class="note">${title}: nothing to count.</p>`
  const most = Math.max(...columns.map(({ value }) => value), 1)
  const total = columns.reduce((sum, { value }) => sum + value, 0)
  const step = width / columns.length
  const every = Math.ceil(columns.length / 12)
  const drawn = columns.map(({ label, value }, place) => {
    const high = (value / most) * (floor - 18)
    const x = place * step
    const labelled = place % every === 0
    return html`<g
      ><title>${label} ${unit}: ${count(value)} (${percent(total === 0 ? 0 : value / total)})</title
      ><rect class="hit" x="${x.toFixed(1)}" y="0" width="${step.toFixed(1)}" height="${floor}" /><rect
        class="main"
        x="${(x + step * 0.08).toFixed(1)}"
        y="${(floor - high).toFixed(1)}"
        width="${(step * 0.84).toFixed(1)}"
        height="${high.toFixed(1)}"
        rx="2"
      />${labelled && html`<text x="${(x + step / 2).toFixed(1)}" y="${floor + 18}">${label.split("–")[0] ?? label}</text>`}</g
    >`
  })
  const rows = columns.map(({ label, value }) => [label, value, percent(total === 0 ? 0 : value / total)])
  return html`<figure>
    <figcaption>${title}</figcaption>
    <svg
      viewBox="0 0 ${width} ${height}"
      role="img"
      aria-label="${title}: histogram of ${count(total)}, table below"
    >
      <line x1="0" y1="${floor}" x2="${width}" y2="${floor}" />
      ${drawn}</svg
    >${folded("As a table", table([unit, "count", "share"], rows))}
  </figure>`
}
