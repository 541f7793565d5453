/** A server with the chat page, whose model does as its questions say. */
import { createServer, connect } from "node:net"
import type { AddressInfo, Socket } from "node:net"

import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"

import type { GenerationSettings } from "../../ts/generate/generate.ts"
import { serve } from "../../ts/http/index.ts"
import type { AnswerStream } from "../../ts/native/border.ts"
import type { Border } from "../../ts/native/index.ts"
import { envelope, memoryBorder, Native } from "../../ts/native/index.ts"

const pause = (milliseconds: number) => new Promise((done) => setTimeout(done, milliseconds))

const listening = async (server: ReturnType<typeof createServer>): Promise<number> => {
  server.listen(0, "127.0.0.1")
  await new Promise((done) => server.once("listening", done))
  return (server.address() as AddressInfo).port
}

/** Says that the prompt was cut. */
const cutting = (stream: AnswerStream): AnswerStream => ({
  close: () => stream.close(),
  async *[Symbol.asyncIterator]() {
    for await (const piece of stream) yield piece.end ? { ...piece, end: { ...piece.end, cut: true } } : piece
  }
})

/** Takes 你说： away, which the model in memory says first. */
const withoutEcho = (stream: AnswerStream): AnswerStream => ({
  close: () => stream.close(),
  async *[Symbol.asyncIterator]() {
    for await (const piece of stream) if (piece.end || piece.tokens > 3) yield piece
  }
})

/** Answers are what the question says: those given, 慢 without end, 坏 fails in the middle, 满 is refused, 长 is cut; else as in memory. */
const model = (
  asked: Array<{ prompt: string; settings: GenerationSettings }>,
  loaded: Promise<void>,
  answers: Readonly<Record<string, string>>
) => {
  const memory = memoryBorder()
  const border: Partial<Border> = {
    Serving: {
      load: async (options, limits) => {
        await loaded
        const serving = await memory.Serving.load(options, limits)
        return {
          info: serving.info,
          stats: () => serving.stats(),
          close: () => serving.close(),
          ask: (prompt, settings, given) => {
            asked.push({ prompt, settings })
            if (prompt.startsWith("满"))
              throw envelope("QUEUE_FULL", "too many requests are waiting", "later")
            if (prompt.startsWith("长")) return cutting(serving.ask(prompt, settings, given))
            const known = answers[prompt]
            if (known !== undefined) return withoutEcho(serving.ask(known, settings, given))
            if (!/^[慢坏]/.test(prompt)) return serving.ask(prompt, settings, given)
            let open = true
            return {
              close: () => {
                open = false
              },
              async *[Symbol.asyncIterator]() {
                for (let tokens = 1; open; tokens += 1) {
                  await pause(20)
                  if (prompt.startsWith("坏") && tokens > 3)
                    throw envelope("NOT_FINITE", "the logits are not finite", "train less")
                  yield { answer: 0, text: "字", tokens }
                }
              }
            }
          }
        }
      }
    }
  }
  return border
}

export interface Started {
  readonly url: string
  /** What the model was asked. */
  readonly asked: ReadonlyArray<{ readonly prompt: string; readonly settings: GenerationSettings }>
  /** Breaks every connection. */
  readonly cut: () => void
  readonly stop: () => Promise<unknown>
}

/** Starts a server behind a wire that can be cut. With `loaded` its model is there only after that. */
export const start = async (
  options: {
    readonly apiKeys?: ReadonlyArray<string>
    readonly loaded?: Promise<void>
    readonly answers?: Readonly<Record<string, string>>
  } = {}
): Promise<Started> => {
  const asked: Array<{ prompt: string; settings: GenerationSettings }> = []
  const free = createServer()
  const port = await listening(free)
  await new Promise((done) => free.close(done))
  const ready = Promise.withResolvers<void>()
  const fiber = Effect.runFork(
    serve({
      generator: { model: "ChatLM-mini", dtype: "f32" },
      settings: {},
      host: "127.0.0.1",
      port,
      apiKeys: options.apiKeys ?? [],
      drainSeconds: 0,
      onReady: () => Effect.sync(() => ready.resolve())
    }).pipe(
      Effect.provide(
        Native.testLayer(model(asked, options.loaded ?? Promise.resolve(), options.answers ?? {}))
      )
    )
  )
  if (options.loaded === undefined) await ready.promise
  const open = new Set<Socket>()
  const wire = createServer((socket) => {
    const other = connect(port, "127.0.0.1")
    for (const end of [socket, other]) {
      open.add(end)
      end.on("error", () => {})
      end.on("close", () => {
        open.delete(end)
        socket.destroy()
        other.destroy()
      })
    }
    socket.pipe(other).pipe(socket)
  })
  const url = `http://127.0.0.1:${await listening(wire)}/`
  const cut = () => {
    for (const socket of open) socket.destroy()
  }
  const stop = async () => {
    cut()
    await new Promise((done) => wire.close(done))
    await Effect.runPromise(Fiber.interrupt(fiber))
  }
  return { url, asked, cut, stop }
}
