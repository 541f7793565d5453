/**
 * Progress of whatever takes over two seconds: on a terminal a bar with rate and time left, without one a
 * line every ten seconds. Drawn on standard error.
 */
import type * as CliProgress from "cli-progress"

import type { Progress } from "../../native/index.ts"
import type { Host } from "./host.ts"
import type { Output } from "./output.ts"
import { number } from "./output.ts"

const patience = 2_000
const lineEvery = 10_000

export interface ProgressView {
  /** Takes what the core tells; `extra` stands at the end, such as the loss. */
  readonly report: (progress: Progress, extra?: string) => void
  readonly stop: () => void
}

/** `1:05`, `2:03:04`. */
export const clock = (seconds: number): string => {
  const whole = Math.max(0, Math.round(seconds))
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
  const shown = parts[0] === 0 ? parts.slice(1) : parts
  return shown.map((part, index) => (index === 0 ? String(part) : String(part).padStart(2, "0"))).join(":")
}

const levels = "▁▂▃▄▅▆▇█"

/** The course of some values in a few signs, the last ones where they are many: `▇▅▃▂▁`. */
export const sparkline = (values: ReadonlyArray<number>, width = 16): string => {
  const finite = values.filter(Number.isFinite)
  const size = Math.ceil(finite.length / width)
  const means: Array<number> = []
  for (let start = finite.length % size; start < finite.length; start += size) {
    const part = finite.slice(start, start + size)
    means.push(part.reduce((sum, value) => sum + value, 0) / part.length)
  }
  const [low, high] = [Math.min(...means), Math.max(...means)]
  return means
    .map((value) => levels[high > low ? Math.round(((value - low) / (high - low)) * (levels.length - 1)) : 0])
    .join("")
}

export const makeProgress = (host: Host, output: Output): ProgressView => {
  if (output.quiet) return { report: () => {}, stop: () => {} }
  let stage: string | undefined
  let began = 0
  let base = 0
  let lastLine = 0
  let bar: CliProgress.SingleBar | undefined
  let library: typeof CliProgress | undefined
  let stopped = false

  const describe = (progress: Progress, extra: string, now: number) => {
    const seconds = (now - began) / 1000
    const rate = seconds > 0 ? (progress.done - base) / seconds : 0
    const total = progress.total ?? undefined
    const left = total !== undefined && rate > 0 ? (total - progress.done) / rate : undefined
    const parts = [
      `${number(progress.done)}${total === undefined ? "" : ` of ${number(total)}`} ${progress.unit}`,
      `${number(rate >= 10 ? Math.round(rate) : rate)}/s`,
      ...(left === undefined ? [] : [`${clock(left)} left`]),
      ...(extra === "" ? [] : [extra])
    ]
    return parts.join(", ")
  }

  const loadLibrary = async () => {
    // A CommonJS module: what it exports is the default.
    const module = (await import("cli-progress")) as typeof CliProgress & { default?: typeof CliProgress }
    library = module.default ?? module
  }

  const dropBar = () => {
    bar?.stop()
    bar = undefined
    output.clearBar = () => {}
  }

  const draw = (progress: Progress, text: string) => {
    if (library === undefined) {
      // Loaded at the first bar only: most commands are done before they need one.
      void loadLibrary()
      return
    }
    const total = progress.total ?? 0
    if (bar === undefined) {
      bar = new library.SingleBar(
        {
          format: "{stage} {bar} {percentage}% {text}",
          barsize: 24,
          hideCursor: true,
          clearOnComplete: true,
          stopOnComplete: false,
          forceRedraw: true,
          autopadding: false,
          linewrap: false,
          ...(total === 0 ? { format: "{stage} {text}" } : {})
        },
        library.Presets.shades_classic
      )
      bar.start(total, progress.done, { stage: progress.stage, text })
      // The library restores the cursor to where it began, so a line in between must end the bar first;
      // the next report starts another.
      output.clearBar = dropBar
    }
    bar.setTotal(total)
    bar.update(progress.done, { stage: progress.stage, text })
  }

  return {
    report: (progress, extra = "") => {
      if (stopped) return
      const now = host.now()
      if (progress.stage !== stage) {
        dropBar()
        stage = progress.stage
        began = now
        base = progress.done
        lastLine = now
      }
      if (now - began < patience) return
      if (output.terminal) {
        draw(progress, describe(progress, extra, now))
      } else if (now - lastLine >= lineEvery) {
        lastLine = now
        output.writeError(`${progress.stage}: ${describe(progress, extra, now)}`)
      }
    },
    stop: () => {
      stopped = true
      dropBar()
    }
  }
}
