/**
 * `chatlm chat`: a conversation in the terminal. Each question stands for itself, as in the reference.
 * On a terminal Ctrl+C stops the answer, not the program; without one, lines are answered plainly.
 */
import { createInterface } from "node:readline"

import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"

import { loadGenerator } from "../generate/generate.ts"
import * as Flags from "./core/flags.ts"
import { generationFlags, settingsOf } from "./core/generation.ts"
import { Host } from "./core/host.ts"
import { Output } from "./core/output.ts"
import { Signals } from "./core/signals.ts"
import { verb } from "./core/verb.ts"

const question = "用户: "
const answerer = "ChatBot: "

export const command = verb(
  "chat",
  "A conversation in the terminal",
  { model: Flags.model, adapter: Flags.adapter, dtype: Flags.dtype, ...generationFlags },
  (flags, common) =>
    Effect.gen(function* () {
      const host = yield* Host
      const output = yield* Output
      const signals = yield* Signals
      const generator = yield* loadGenerator({
        model: flags.model,
        ...Flags.given("dtype", flags.dtype),
        ...Flags.given("adapter", flags.adapter)
      })
      common.progress.stop()
      const terminal = host.stdin.isTTY === true && !output.json
      const typed = yield* Queue.unbounded<Option.Option<string>>()
      let stop: Deferred.Deferred<void> | undefined

      /** Takes a Ctrl+C while an answer runs. */
      const stopAnswer = () => {
        if (stop === undefined) return false
        Deferred.doneUnsafe(stop, Effect.void)
        return true
      }
      const reader = yield* Effect.acquireRelease(
        Effect.sync(() =>
          createInterface({
            input: host.stdin,
            crlfDelay: Infinity,
            ...(terminal ? { output: host.promptStream, prompt: question, terminal: true } : {})
          })
        ),
        (reader) => Effect.sync(() => reader.close())
      )
      reader.on("line", (line) => Queue.offerUnsafe(typed, Option.some(line)))
      reader.on("close", () => Queue.offerUnsafe(typed, Option.none()))
      // On a terminal the keyboard is read raw: Ctrl+C arrives here and not as a signal.
      reader.on("SIGINT", () => {
        if (stopAnswer()) return
        reader.write(null, { ctrl: true, name: "u" })
        host.writeError("\n(exit or Ctrl+D ends)\n")
        reader.prompt()
      })
      yield* Effect.acquireRelease(
        Effect.sync(() => signals.intercept((signal) => signal === "SIGINT" && stopAnswer())),
        (release) => Effect.sync(release)
      )

      const answer = (text: string, turn: number, seed: number) =>
        Effect.gen(function* () {
          const settings = settingsOf(flags, Option.some(seed + turn))
          if (output.json) {
            const answers = yield* generator.generate([text], settings, 1)
            for (const { prompt, response, tokens } of answers) {
              yield* output.result({ prompt, response, tokens }, response)
            }
            return
          }
          if (terminal) yield* output.raw(answerer)
          stop = yield* Deferred.make<void>()
          yield* generator.stream(text, settings).pipe(
            Stream.runForEach((piece) => output.raw(piece.text)),
            Effect.raceFirst(Deferred.await(stop)),
            Effect.ensuring(
              Effect.sync(() => {
                stop = undefined
              })
            )
          )
          yield* output.raw("\n")
        })

      if (terminal) yield* output.note("exit ends, cls clears the screen, Ctrl+C stops an answer")
      const seed = Option.getOrElse(common.seed, () => -1)
      const first = seed >= 0 ? seed : yield* Random.nextIntBetween(0, 2 ** 31)
      for (let turn = 0; ; turn += 1) {
        if (terminal) reader.prompt()
        const line = yield* Queue.take(typed)
        if (Option.isNone(line)) break
        const text = line.value.trim()
        if (text === "exit") break
        if (text === "cls") {
          if (terminal) host.writeError("\u001b[2J\u001b[3J\u001b[H")
          continue
        }
        if (text !== "") yield* answer(text, turn, first)
      }
    })
)
