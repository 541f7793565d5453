import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"

import { memoryBorder, Native } from "../../ts/native/index.ts"
import type { Border, TrainEvent } from "../../ts/native/index.ts"
import { Checkpoint, Dpo, Pretrain, Sft, trainingLayer } from "../../ts/services/training.ts"

type Needs = Pretrain | Sft | Dpo | Checkpoint

/** Runs over the in-memory core, which notes when a run is saved by hand and closed. */
const running = async <A, E>(work: Effect.Effect<A, E, Needs>, told: Array<string> = []) => {
  const memory = memoryBorder()
  const border: Partial<Border> = {
    TrainingRun: {
      open: async (...args) => {
        const run = await memory.TrainingRun.open(...args)
        return {
          advance: (steps) => run.advance(steps),
          interrupt: async () => {
            told.push("saved")
            return run.interrupt()
          },
          close: async () => {
            told.push("closed")
            run.close()
          }
        }
      }
    }
  }
  const layer = trainingLayer.pipe(Layer.provide(Native.testLayer(border)))
  return Effect.runPromise(work.pipe(Effect.provide(layer)))
}

const events = (count?: number) =>
  Effect.flatMap(Pretrain, (pretrain) => {
    const all = pretrain.events({ maxSteps: 5, out: "o" })
    return Stream.runCollect(count === undefined ? all : Stream.take(all, count))
  })

describe("training as services", () => {
  it("tells what happens to the end, and saves nothing more", async () => {
    const told: Array<string> = []
    const seen: ReadonlyArray<TrainEvent> = await running(events(), told)
    expect(seen[0]?.type).toBe("started")
    expect(seen.at(-1)).toMatchObject({ type: "finished", step: 5 })
    expect(told).toEqual(["closed"])
  })

  it("a reader that stops early leaves a checkpoint", async () => {
    const told: Array<string> = []
    expect(await running(events(2), told)).toHaveLength(2)
    expect(told).toEqual(["saved", "closed"])
  })

  it("each kind has its own keys, and a wrong one is refused by name", async () => {
    const report = await running(Effect.flatMap(Sft, (sft) => sft.run({ maxSteps: 3, out: "o" })))
    expect(report).toMatchObject({ step: 3, reason: "steps" })
    const config = { maxSteps: 3, bta: 1 } as object
    const error = await running(Effect.flip(Effect.flatMap(Dpo, (dpo) => dpo.run(config))))
    expect(error).toMatchObject({ code: "CONFIG_INVALID", context: { nearest: "beta" } })
  })

  it("the checkpoints of a run are those with a manifest", async () => {
    const out = mkdtempSync(join(tmpdir(), "chatlm-run-"))
    const list = Effect.flatMap(Checkpoint, (checkpoint) => checkpoint.list(out))
    expect(await running(list)).toEqual([])
    for (const step of [20, 100, 3]) {
      const folder = join(out, "checkpoints", `step-${String(step).padStart(8, "0")}`)
      mkdirSync(folder, { recursive: true })
      const manifest = { format: 1, step, files: { a: { bytes: 3 }, b: { bytes: step } } }
      if (step !== 3) writeFileSync(join(folder, "manifest.json"), JSON.stringify(manifest))
    }
    expect((await running(list)).map(({ step, bytes }) => [step, bytes])).toEqual([
      [20, 23],
      [100, 103]
    ])
  })
})
