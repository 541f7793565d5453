/** A run folder as it is and as it grows: its configuration, metrics and samples. */
import * as fs from "node:fs/promises"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

import { attempt } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import { Tail } from "./tail.ts"
import type { Metrics, RunData, Sample } from "./view/data.ts"

/** What happens in a run folder. */
export type RunEvent =
  /** The run begins, or its files were cut back as it went on from a checkpoint: what was told is void. */
  | { readonly type: "begin"; readonly config: Readonly<Record<string, unknown>> }
  | { readonly type: "metrics"; readonly metrics: Metrics }
  | { readonly type: "sample"; readonly sample: Sample }

export interface WatchOptions {
  /** Milliseconds between two looks; 500 where left out. */
  readonly every?: number
}

/** What one look found; with `begin` it is everything. */
export interface Look {
  readonly begin: boolean
  readonly config: Readonly<Record<string, unknown>>
  readonly metrics: ReadonlyArray<Metrics>
  readonly samples: ReadonlyArray<Sample>
}

const parsed = (line: string): Readonly<Record<string, unknown>> | undefined => {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    // Torn by a crash; the run writes it again.
    return undefined
  }
}

const toMetrics = (line: string): ReadonlyArray<Metrics> => {
  const value = parsed(line)
  if (typeof value?.["step"] !== "number") return []
  const figures = Object.entries(value).filter(([, figure]) => typeof figure === "number")
  return [{ ...(Object.fromEntries(figures) as Record<string, number>), step: value["step"] }]
}

const toSample = (line: string): ReadonlyArray<Sample> => {
  const value = parsed(line)
  if (typeof value?.["step"] !== "number") return []
  const text = (name: string) => (typeof value[name] === "string" ? value[name] : "")
  return [{ step: value["step"], prompt: text("prompt"), response: text("response"), label: text("label") }]
}

/** Follows one run folder. */
export class Follower {
  private readonly folder: string
  private metrics: Tail
  private samples: Tail
  private configText: string | undefined

  constructor(folder: string) {
    this.folder = folder
    this.metrics = new Tail(join(folder, "metrics.jsonl"))
    this.samples = new Tail(join(folder, "samples.jsonl"))
  }

  /** What is new since the last look. */
  async look(): Promise<Look> {
    const configText = await fs.readFile(join(this.folder, "config.json"), "utf8").catch(() => "{}")
    let begin = configText !== this.configText
    this.configText = configText
    if (begin) this.restart()
    let [metrics, samples] = [await this.metrics.read(), await this.samples.read()]
    if (!begin && (metrics.cut || samples.cut)) {
      // One of them cut back: all is told again, so that nobody has to keep them apart.
      begin = true
      this.restart()
      ;[metrics, samples] = [await this.metrics.read(), await this.samples.read()]
    }
    return {
      begin,
      config: parsed(configText) ?? {},
      metrics: metrics.lines.flatMap(toMetrics),
      samples: samples.lines.flatMap(toSample)
    }
  }

  private restart() {
    this.metrics = new Tail(join(this.folder, "metrics.jsonl"))
    this.samples = new Tail(join(this.folder, "samples.jsonl"))
  }
}

/** The run as it is now. */
export const readRun = (folder: string, name = folder): Effect.Effect<RunData, ChatlmError> =>
  attempt(folder, async () => {
    await fs.access(folder)
    const follower = new Follower(folder)
    const first = await follower.look()
    const lines = [...first.metrics]
    const samples = [...first.samples]
    for (;;) {
      const more = await follower.look()
      // Cut back while it was read: what comes now is all there is.
      if (more.begin) {
        lines.splice(0)
        samples.splice(0)
      }
      if (more.metrics.length === 0 && more.samples.length === 0) break
      lines.push(...more.metrics)
      samples.push(...more.samples)
    }
    return { name, config: first.config, lines, samples }
  })

/**
 * What a run writes, from its beginning and for as long as somebody listens. Where the run is cut back as it
 * goes on from a checkpoint, `begin` comes again and then all that is there.
 */
export const watch = (
  folder: string,
  { every = 500 }: WatchOptions = {}
): Stream.Stream<RunEvent, ChatlmError> =>
  Stream.suspend(() => {
    const follower = new Follower(folder)
    const look = attempt(folder, () => follower.look()).pipe(
      Effect.map(({ begin, config, metrics, samples }): ReadonlyArray<RunEvent> => [
        ...(begin ? [{ type: "begin", config } as const] : []),
        ...metrics.map((metrics) => ({ type: "metrics", metrics }) as const),
        ...samples.map((sample) => ({ type: "sample", sample }) as const)
      ])
    )
    return Stream.concat(
      Stream.fromEffect(attempt(folder, () => fs.access(folder)).pipe(Effect.andThen(look))),
      Stream.fromEffectRepeat(Effect.delay(look, every))
    ).pipe(Stream.flatMap((events) => Stream.fromIterable(events)))
  })
