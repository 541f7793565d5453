import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { envelope, memoryBorder, Native } from "../../ts/native/index.ts"
import type { Border, ChatlmError } from "../../ts/native/index.ts"
import { Generator } from "../../ts/services/generation.ts"
import { learning, makeModel } from "../http/support.ts"

/** The in-memory core, which notes what it is asked and when it is closed. */
const noting = (told: Array<unknown>): Partial<Border> => ({
  Generator: {
    load: async (...args) => {
      const generator = await memoryBorder().Generator.load(...args)
      return {
        info: generator.info,
        generate: async (prompts, settings, batch, report, token, first) => {
          told.push([prompts.length, settings, batch])
          if (prompts[0] === "endless") {
            // Comes back when it is told to stop, as the core does.
            while (!token?.cancelled) await new Promise((done) => setTimeout(done, 1))
            told.push("cancelled")
            throw envelope("CANCELLED", "cancelled", "")
          }
          return generator.generate(prompts, settings, batch, report, token, first)
        },
        stream: (prompt, settings) => {
          const stream = generator.stream(prompt, settings)
          return {
            close: () => {
              told.push("stream closed")
              stream.close()
            },
            [Symbol.asyncIterator]: () => stream[Symbol.asyncIterator]()
          }
        },
        close: () => {
          told.push("freed")
          generator.close()
        }
      }
    }
  }
})

const over = (native: Layer.Layer<Native>, model = "m") =>
  Generator.layer({ model }).pipe(Layer.provide(native))

const running = <A>(work: Effect.Effect<A, ChatlmError, Generator>, told: Array<unknown> = []) =>
  Effect.runPromise(work.pipe(Effect.provide(over(Native.testLayer(noting(told))))))

const generate = (...args: Parameters<Generator["Service"]["generate"]>) =>
  Effect.flatMap(Generator, (generator) => generator.generate(...args))

describe("answers as a service", () => {
  it("answers in order, with settings and a batch of its own, and is freed with its layer", async () => {
    const told: Array<unknown> = []
    const answers = await running(generate(["一", "二"], { answers: 2, temperature: 0.5, batch: 3 }), told)
    expect(answers.map(({ prompt }) => prompt)).toEqual(["一", "一", "二", "二"])
    expect(told).toEqual([[2, { answers: 2, temperature: 0.5 }, 3], "freed"])
    await running(generate(["一"]), told)
    expect(told[2]).toEqual([1, {}, 16])
  })

  it("streams an answer; a reader that stops closes it", async () => {
    const told: Array<unknown> = []
    const stream = Stream.unwrap(Effect.map(Generator, (generator) => generator.stream("你好")))
    const pieces = await running(Stream.runCollect(stream), told)
    expect(pieces.map(({ text }) => text).join("")).toBe("你说：你好")
    expect(pieces.at(-1)).toMatchObject({ done: true, finishReason: "stop" })
    expect(await running(Stream.runCollect(Stream.take(stream, 2)), told)).toHaveLength(2)
    expect(told).toEqual(["stream closed", "freed", "stream closed", "freed"])
  })

  it("an interruption stops the core before the model is freed", async () => {
    const told: Array<unknown> = []
    const work = Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(generate(["endless"]))
      yield* Effect.promise(() => expect.poll(() => told.length).toBe(1))
      yield* Fiber.interrupt(fiber)
    })
    await running(work, told)
    expect(told.slice(1)).toEqual(["cancelled", "freed"])
  })

  it("a model that cannot be loaded fails the layer", async () => {
    const error = Effect.flip(generate(["一"]).pipe(Effect.provide(over(Native.layer, "no/such/folder"))))
    expect(await Effect.runPromise(error)).toMatchObject({ _tag: "InputError" })
  })
})

describe("over the real core", () => {
  let model: Awaited<ReturnType<typeof makeModel>>
  beforeAll(async () => {
    model = await makeModel(learning)
  }, 120_000)
  afterAll(() => model.remove())

  it("what is streamed is what is generated, whatever stands beside it", async () => {
    const settings = { search: "sample", seed: 7, maxNewTokens: 20 }
    const work = Effect.gen(function* () {
      const generator = yield* Generator
      const [alone] = yield* generator.generate(["三只猫和五只猫"], settings)
      const among = yield* generator.generate(["三只猫和五只猫", "一", "二", "三"], { ...settings, batch: 2 })
      const pieces = yield* Stream.runCollect(generator.stream("三只猫和五只猫", settings))
      return { alone, among, text: pieces.map(({ text }) => text).join("") }
    })
    const { alone, among, text } = await Effect.runPromise(
      work.pipe(Effect.provide(over(Native.layer, model.model)))
    )
    expect(text).toBe(alone?.response)
    expect(text).not.toBe("")
    expect(among.map(({ prompt }) => prompt)).toEqual(["三只猫和五只猫", "一", "二", "三"])
    expect(among[0]).toEqual(alone)
  })
})
