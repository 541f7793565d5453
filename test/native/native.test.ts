import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"

import type { CancelToken, Progress } from "../../ts/native/index.ts"
import {
  ChosenDevice,
  envelope,
  fromBorderModule,
  memoryBorder,
  Native,
  ProgressReporter
} from "../../ts/native/index.ts"

const table = { inputs: ["a"], output: "b", keepGoing: false, force: false }

describe("Native", () => {
  it("tells progress to whoever listens", async () => {
    const told: Array<Progress> = []
    const report = await Effect.runPromise(
      Effect.flatMap(Native, (native) => native.merge(table)).pipe(
        Effect.provideService(ProgressReporter, (progress) => told.push(progress)),
        Effect.provide(Native.testLayer())
      )
    )
    expect(report.rows).toBe(3)
    expect(told.map(({ done }) => done)).toEqual([0, 1])
  })

  it("a call that computes gets the chosen device, unless it names one", async () => {
    const seen: Array<string | undefined> = []
    const layer = Native.testLayer({
      evaluatePerplexity: async ({ device }) => {
        seen.push(device)
        return { perplexity: 1, loss: 0, tokens: 1 }
      }
    })
    const options = { model: "m", inputs: ["a"], batch: 1, maxLength: 2 }
    const ask = (more: { device?: string }) =>
      Effect.flatMap(Native, (native) => native.evaluatePerplexity({ ...options, ...more }))
    const chosen = Effect.all([ask({}), ask({ device: "cpu" })]).pipe(
      Effect.provideService(ChosenDevice, "cuda:1")
    )
    await Effect.runPromise(Effect.andThen(chosen, ask({})).pipe(Effect.provide(layer)))
    expect(seen).toEqual(["cuda:1", "cpu", undefined])
  })

  it("maps envelopes to tagged errors with their fields", async () => {
    const error = await Effect.runPromise(
      Effect.flip(
        Effect.flatMap(Native, (native) => native.merge(table)).pipe(
          Effect.provide(
            Native.testLayer({
              merge: async () => {
                throw envelope("INPUT_ROW", "row 3 has no prompt", "name the column", { row: 3 })
              }
            })
          )
        )
      )
    )
    expect(error).toMatchObject({
      _tag: "InputError",
      code: "INPUT_ROW",
      help: "name the column",
      context: { row: 3 }
    })
  })

  it("an interrupted fiber cancels and waits", async () => {
    const order: Array<string> = []
    const native = fromBorderModule(async () => ({
      ...memoryBorder(),
      merge: async (_: unknown, __: unknown, token?: CancelToken | null) => {
        order.push("started")
        while (token?.cancelled !== true) await new Promise((done) => setTimeout(done, 1))
        order.push("stopped")
        throw envelope("CANCELLED", "interrupted", "again")
      }
    }))
    const fiber = Effect.runFork(native.merge(table))
    while (order.length === 0) await new Promise((done) => setTimeout(done, 1))
    await Effect.runPromise(Fiber.interrupt(fiber))
    order.push("interrupted")
    expect(order).toEqual(["started", "stopped", "interrupted"])
  })

  it("a stream that is left is closed", async () => {
    let closed = 0
    const memory = memoryBorder()
    const texts = await Effect.runPromise(
      Effect.scoped(
        Effect.gen(function* () {
          const native = yield* Native
          const generator = yield* native.generator({ model: "m", dtype: "f32" })
          const first = yield* generator.stream("你好", {}).pipe(Stream.take(2), Stream.runCollect)
          return first.map(({ text }) => text)
        })
      ).pipe(
        Effect.provide(
          Native.testLayer({
            Generator: {
              load: async (options) => {
                const generator = await memory.Generator.load(options)
                return {
                  info: generator.info,
                  generate: generator.generate.bind(generator),
                  close: () => {},
                  stream: (prompt, settings) => {
                    const stream = generator.stream(prompt, settings)
                    return {
                      close: () => {
                        closed += 1
                        stream.close()
                      },
                      [Symbol.asyncIterator]: () => stream[Symbol.asyncIterator]()
                    }
                  }
                }
              }
            }
          })
        )
      )
    )
    expect(texts).toEqual(["你", "说"])
    expect(closed).toBe(1)
  })

  it("an addon that does not load is told as such", async () => {
    const native = fromBorderModule(async () => {
      throw new Error("no such file")
    })
    expect(await Effect.runPromise(Effect.flip(native.doctor))).toMatchObject({ _tag: "BugError" })
  })
})
