/** A run as the page shows it, and its lines as series. Runs in the browser too, so it asks nothing of Node. */

/** A line of `metrics.jsonl`; the keys are the file's own. */
export interface Metrics {
  readonly step: number
  readonly epoch?: number
  readonly loss?: number
  readonly learning_rate?: number
  readonly grad_norm?: number
  readonly tokens_per_second?: number
  readonly rss_bytes?: number
  readonly padding_share?: number
  readonly total_steps?: number
  readonly eval_loss?: number
  readonly eval_bleu4?: number
  /** Tokens trained on, seconds that the run has been open, seconds since 1970. */
  readonly tokens?: number
  readonly seconds?: number
  readonly time?: number
  readonly [name: string]: number | undefined
}

/** A line of `samples.jsonl`. */
export interface Sample {
  readonly step: number
  readonly prompt: string
  readonly response: string
  readonly label: string
}

export interface RunData {
  /** Told apart from the other runs by it. */
  readonly name: string
  readonly config: Readonly<Record<string, unknown>>
  readonly lines: ReadonlyArray<Metrics>
  readonly samples: ReadonlyArray<Sample>
}

export type Axis = "step" | "tokens" | "seconds" | "time"

/** What the reader has chosen. */
export interface View {
  readonly axis: Axis
  /** 0: as measured; towards 1: a mean over ever more lines. */
  readonly smoothing: number
  readonly log: boolean
  readonly hidden: ReadonlySet<string>
  /** Seconds since 1970; missing where the page is a file. */
  readonly now?: number
}

export type Point = readonly [x: number, y: number]

/** Where a line stands on the axis; undefined where an older version did not write it. */
const place = (line: Metrics, axis: Axis) => line[axis]

/** The values of a key along the axis. */
export const pointsOf = (run: RunData, key: string, axis: Axis): ReadonlyArray<Point> =>
  run.lines.flatMap((line): ReadonlyArray<Point> => {
    const [x, y] = [place(line, axis), line[key]]
    return x === undefined || y === undefined || !Number.isFinite(y) ? [] : [[x, y]]
  })

/** An exponential mean that owes nothing to its first value. */
export const smooth = (points: ReadonlyArray<Point>, weight: number): ReadonlyArray<Point> => {
  let [mean, share] = [0, 0]
  return points.map(([x, y]) => {
    mean = mean * weight + y * (1 - weight)
    share = share * weight + (1 - weight)
    return [x, mean / share]
  })
}

/** No more points than a chart can show: of each stretch the ends, the lowest and the highest. */
export const thin = (points: ReadonlyArray<Point>, most = 1200): ReadonlyArray<Point> => {
  if (points.length <= most) return points
  const size = Math.ceil((points.length * 4) / most)
  const kept: Array<Point> = []
  for (let start = 0; start < points.length; start += size) {
    const end = Math.min(start + size, points.length)
    let [low, high] = [start, start]
    for (let n = start; n < end; n += 1) {
      if ((points[n]?.[1] ?? 0) < (points[low]?.[1] ?? 0)) low = n
      if ((points[n]?.[1] ?? 0) > (points[high]?.[1] ?? 0)) high = n
    }
    for (const n of [...new Set([start, low, high, end - 1])].toSorted((a, b) => a - b)) {
      const point = points[n]
      if (point !== undefined) kept.push(point)
    }
  }
  return kept
}

/** The last value of a key. */
export const lastOf = (run: RunData, key: string): number | undefined => {
  for (let n = run.lines.length - 1; n >= 0; n -= 1) {
    const value = run.lines[n]?.[key]
    if (value !== undefined) return value
  }
  return undefined
}

/** What says where a line belongs; every other key of a line is a measure. */
const places = new Set(["step", "epoch", "total_steps", "tokens", "seconds", "time"])

/** Every measure there is, in the order of the files. */
export const measuresOf = (runs: ReadonlyArray<RunData>): ReadonlyArray<string> => {
  const found = new Set<string>()
  for (const run of runs) {
    for (const line of run.lines) for (const key of Object.keys(line)) found.add(key)
  }
  return [...found].filter((key) => !places.has(key))
}
