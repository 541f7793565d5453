/** A line chart as SVG. Colours are classes (`c0` … `c7`), since the page allows no styles inside of tags. */
import { html } from "../../report/html.ts"
import type { Html } from "../../report/html.ts"
import { thin } from "./data.ts"
import type { Axis, Point } from "./data.ts"
import { bytes, duration, moment, short } from "./format.ts"

export interface Series {
  readonly name: string
  readonly colour: number
  /** `faint` lies behind a smoothed line; `dots` joins points that are few. */
  readonly look: "line" | "faint" | "dots" | "dashed"
  readonly points: ReadonlyArray<Point>
}

export interface ChartOptions {
  readonly id: string
  readonly title: string
  readonly note?: string
  readonly series: ReadonlyArray<Series>
  readonly axis: Axis
  readonly log: boolean
  readonly format: (value: number) => string
  /** Twice as wide as the others. */
  readonly wide?: boolean
  /** Whether 0 belongs to the picture. */
  readonly fromZero?: boolean
}

/** Where a chart's inside lies, for whoever points at it. */
export interface Frame {
  readonly width: number
  readonly left: number
  readonly right: number
  readonly from: number
  readonly to: number
}

/** More last values than these are left to the table. */
const mostEnds = 3
const top = 10
const left = 56
const rightMargin = 14
const heightOf = (wide: boolean) => (wide ? 330 : 230)
const widthOf = (wide: boolean) => (wide ? 1120 : 540)

export const placeText = (axis: Axis, value: number): string => {
  if (axis === "seconds") return duration(value)
  return axis === "time" ? moment(value) : short(value)
}

/** Round values inside of a range, about `count` of them. */
export const ticks = (from: number, to: number, count: number): ReadonlyArray<number> => {
  const span = to - from
  if (!(span > 0)) return [from]
  const rough = span / count
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = ([1, 2, 2.5, 5, 10].find((n) => n * power >= rough) ?? 10) * power
  const first = Math.ceil(from / step - 1e-9)
  const found: Array<number> = []
  for (let n = first; n * step <= to + step * 1e-9; n += 1) found.push(Number((n * step).toPrecision(12)))
  return found
}

/** The same for bytes: round in their own unit. */
export const byteTicks = (from: number, to: number, count: number): ReadonlyArray<number> => {
  const unit = 1024 ** Math.max(0, Math.floor(Math.log(Math.max(1, Math.abs(to))) / Math.log(1024)))
  return ticks(from / unit, to / unit, count).map((value) => value * unit)
}

/** Powers of ten inside of a range, with their halves and fifths where they are few. */
const logTicks = (from: number, to: number): ReadonlyArray<number> => {
  const found: Array<number> = []
  const parts = Math.log10(to / from) < 2 ? [1, 1.5, 2, 3, 5, 7] : [1]
  for (let power = Math.floor(Math.log10(from)); power <= Math.ceil(Math.log10(to)); power += 1) {
    for (const part of parts) found.push(Number((part * 10 ** power).toPrecision(3)))
  }
  return found.filter((value) => value >= from && value <= to)
}

const quantile = (sorted: ReadonlyArray<number>, q: number) =>
  sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(q * (sorted.length - 1))))] ?? 0

/** The range of the values; what is far off among the faint ones is cut. */
const rangeOf = (options: ChartOptions): readonly [number, number] => {
  const values: Array<number> = []
  for (const { look, points } of options.series) {
    const all = points.map(([, y]) => y).filter((y) => !options.log || y > 0)
    if (look === "faint") {
      const sorted = all.toSorted((a, b) => a - b)
      if (sorted.length > 0) values.push(quantile(sorted, 0.01), quantile(sorted, 0.99))
    } else for (const y of all) values.push(y)
  }
  const low = values.reduce((a, b) => Math.min(a, b), Infinity)
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity)
  if (options.log) return [low * 0.95, high * 1.05]
  const room = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1
  const bottom = options.fromZero === true || (low >= 0 && low < (high - low) * 0.15) ? 0 : low - room
  return [Math.min(bottom, low), high + room]
}

/** The inside of a chart; undefined where there is nothing to draw. */
export const frameOf = (options: ChartOptions): Frame | undefined => {
  const xs = options.series.flatMap(({ points }) => [points[0], points.at(-1)].flatMap((p) => p?.[0] ?? []))
  if (xs.length === 0) return undefined
  const width = widthOf(options.wide === true)
  const [from, to] = [Math.min(...xs), Math.max(...xs)]
  return { width, left, right: width - rightMargin, from, to: to > from ? to : from + 1 }
}

/** A chart in a figure: title, the last value of each run, the lines. */
export const chart = (options: ChartOptions): Html => {
  const frame = frameOf(options)
  const wide = options.wide === true
  const height = heightOf(wide)
  const floor = height - 26
  const ends = options.series.filter(({ look }) => look !== "faint")
  const head = html`<figcaption>
    <b>${options.title}</b>${options.note !== undefined && html`<span class="note">${options.note}</span>`}
    <span class="last"
      >${
        ends.length <= mostEnds &&
        ends.map(({ colour, points }) => {
          const last = points.at(-1)
          return last !== undefined && html`<span class="c${colour}">${options.format(last[1])}</span>`
        })
      }</span
    >
  </figcaption>`
  const kind = wide ? "chart wide" : "chart"
  if (frame === undefined) {
    return html`<figure class="${kind}" id="${options.id}">
      ${head}
      <p class="note">nothing yet</p>
    </figure>`
  }
  const [low, high] = rangeOf(options)
  const level = options.log ? Math.log10 : (value: number) => value
  const x = (value: number) =>
    frame.left + ((value - frame.from) / (frame.to - frame.from)) * (frame.right - frame.left)
  const y = (value: number) =>
    floor - ((level(value) - level(low)) / (level(high) - level(low))) * (floor - top)
  const at = ([px, py]: Point) => `${x(px).toFixed(1)},${y(py).toFixed(1)}`
  const lines = options.series.map(({ colour, look, points }) => {
    const shown = thin(options.log ? points.filter(([, py]) => py > 0) : points)
    const dots =
      look === "dots" || shown.length === 1
        ? shown.map(
            (point) => html`<circle cx="${x(point[0]).toFixed(1)}" cy="${y(point[1]).toFixed(1)}" r="3" />`
          )
        : undefined
    return html`<g class="c${colour} ${look}"><polyline points="${shown.map(at).join(" ")}" />${dots}</g>`
  })
  const rows = options.log
    ? logTicks(low, high)
    : (options.format === bytes ? byteTicks : ticks)(low, high, wide ? 6 : 4)
  const columns = ticks(frame.from, frame.to, wide ? 9 : 4)
  return html`<figure class="${kind}" id="${options.id}">
    ${head}<svg viewBox="0 0 ${frame.width} ${height}" role="img" aria-label="${options.title}">
      <clipPath id="${options.id}-clip">
        <rect
          x="${frame.left - 4}"
          y="${top - 4}"
          width="${frame.right - frame.left + 8}"
          height="${floor - top + 8}"
        />
      </clipPath>
      ${rows.map(
        (value) =>
          html`<line
              x1="${frame.left}"
              x2="${frame.right}"
              y1="${y(value).toFixed(1)}"
              y2="${y(value).toFixed(1)}"
            /><text class="y" x="${frame.left - 8}" y="${(y(value) + 4).toFixed(1)}"
              >${options.format(value)}</text
            >`
      )}
      ${columns.map(
        (value) =>
          html`<text x="${x(value).toFixed(1)}" y="${floor + 20}">${placeText(options.axis, value)}</text>`
      )}
      <line class="floor" x1="${frame.left}" x2="${frame.right}" y1="${floor}" y2="${floor}" />
      <g clip-path="url(#${options.id}-clip)">${lines}</g>
    </svg>
  </figure>`
}
