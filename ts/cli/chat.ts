/**
 * `chatlm chat`: a conversation in the terminal. Each question stands for itself, as in the reference.
 * On a terminal Ctrl+C stops the answer, not the program; without one, lines are answered plainly.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { createInterface } from "node:readline"

import { loadGenerator } from "../generate/generate.ts"
import { isChatlmError } from "../native/index.ts"
import { openEditor } from "./core/editor.ts"
import type { Editor, Typed } from "./core/editor.ts"
import * as Flags from "./core/flags.ts"
import { generationFlags, settingsOf } from "./core/generation.ts"
import { historyFile, openHistory } from "./core/history.ts"
import { Host } from "./core/host.ts"
import { columns, Output } from "./core/output.ts"
import { changed, settingNames, settingRows } from "./core/settings.ts"
import { Signals } from "./core/signals.ts"
import { verb } from "./core/verb.ts"

const question = "用户: "
const answerer = "ChatBot: "

const help = `exit               end (so does Ctrl+D)
cls                clear the screen
/retry             answer the last question again
/set NAME VALUE    as the flag --NAME; without VALUE back to what the model says
/settings          what is set
/help              this; //… asks a question that begins with /
Ctrl+C             stop the answer
a line ending in \\, a block between """, or pasting: a question of several lines`

const commands = [
  "exit",
  "cls",
  "/help",
  "/retry",
  "/settings",
  ...settingNames.map((name) => `/set ${name} `)
]

/** Where questions come from: a terminal with an editor, or lines. */
interface Questions {
  readonly typed: Queue.Queue<Option.Option<Typed>>
  readonly editor: Editor | undefined
  readonly remember: (text: string) => void
}

const questions = (
  terminal: boolean,
  withHistory: boolean,
  stopAnswer: () => boolean
): Effect.Effect<Questions, never, Scope.Scope | Host> =>
  Effect.gen(function* () {
    const host = yield* Host
    const typed = yield* Queue.unbounded<Option.Option<Typed>>()
    const onEnd = () => Queue.offerUnsafe(typed, Option.none())
    const onQuestion = (question: Typed) => Queue.offerUnsafe(typed, Option.some(question))
    if (!terminal) {
      const reader = yield* Effect.acquireRelease(
        Effect.sync(() => createInterface({ input: host.stdin, crlfDelay: Infinity })),
        (reader) => Effect.sync(() => reader.close())
      )
      reader.on("line", (text) => onQuestion({ text, unseen: false }))
      reader.on("close", onEnd)
      return { typed, editor: undefined, remember: () => {} }
    }
    const history = withHistory ? openHistory(historyFile(host.env)) : undefined
    const editor = yield* Effect.acquireRelease(
      Effect.sync(() =>
        openEditor({
          input: host.stdin,
          output: host.promptStream,
          prompt: question,
          history: history?.entries ?? [],
          complete: (line) => (line === "" ? [] : commands.filter((command) => command.startsWith(line))),
          onQuestion,
          onEnd,
          onInterrupt: stopAnswer
        })
      ),
      (editor) => Effect.sync(() => editor.close())
    )
    return { typed, editor, remember: (text) => history?.add(text) }
  })

export const command = verb(
  "chat",
  "A conversation in the terminal",
  {
    model: Flags.model,
    adapter: Flags.adapter,
    dtype: Flags.dtype,
    noHistory: Flags.boolean("no-history", "Neither read nor keep the questions of other conversations"),
    ...generationFlags
  },
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
      let stop: Deferred.Deferred<void> | undefined

      /** Takes a Ctrl+C while an answer runs. */
      const stopAnswer = () => {
        if (stop === undefined) return false
        Deferred.doneUnsafe(stop, Effect.void)
        return true
      }
      const { typed, editor, remember } = yield* questions(terminal, !flags.noHistory, stopAnswer)
      yield* Effect.acquireRelease(
        Effect.sync(() => signals.intercept((signal) => signal === "SIGINT" && stopAnswer())),
        (release) => Effect.sync(release)
      )

      let settings = settingsOf(flags, Option.none())
      const seed = Option.getOrElse(common.seed, () => -1)
      const first = seed >= 0 ? seed : yield* Random.nextIntBetween(0, 2 ** 31)
      let turn = 0
      let asked: string | undefined

      const answer = (text: string) =>
        Effect.gen(function* () {
          const own = { seed: first + turn, ...settings }
          turn += 1
          if (output.json) {
            const answers = yield* generator.generate([text], own, 1)
            for (const { prompt, response, tokens } of answers) {
              yield* output.result({ prompt, response, tokens }, response)
            }
            return
          }
          if (terminal) yield* output.raw(answerer)
          stop = yield* Deferred.make<void>()
          editor?.mute(true)
          yield* generator.stream(text, own).pipe(
            Stream.runForEach((piece) => output.raw(piece.text)),
            Effect.raceFirst(Deferred.await(stop)),
            Effect.ensuring(
              Effect.sync(() => {
                stop = undefined
                editor?.mute(false)
              })
            )
          )
          yield* output.raw("\n")
        })

      /** On a terminal settings that do not go together end an answer, not the conversation. */
      const tryAnswer = (text: string) =>
        answer(text).pipe(
          Effect.catchIf(
            (error) => terminal && isChatlmError(error) && error.code === "USAGE",
            (error) => output.warn(`\n${error.message}; ${error.help}`)
          )
        )

      /** What begins with / on a terminal. */
      const obey = (text: string) => {
        const [, name = "", words = ""] = /^\/(\S*)\s*(.*)$/s.exec(text) ?? []
        if (name === "help") return output.warn(help)
        if (name === "settings") {
          const rows = settingRows(settings)
          return output.warn(rows.length === 0 ? "as the model says" : columns(rows))
        }
        if (name === "set") {
          const result = changed(settings, words)
          if ("wrong" in result) return output.warn(result.wrong)
          settings = result.settings
          return Effect.void
        }
        if (name === "retry")
          return asked === undefined ? output.warn("nothing was asked yet") : tryAnswer(asked)
        return output.warn(`there is no /${name}; /help names what there is, //${name} asks it`)
      }

      if (terminal)
        yield* output.note("exit ends, cls clears the screen, Ctrl+C stops an answer, /help tells more")
      for (;;) {
        editor?.prompt()
        const next = yield* Queue.take(typed)
        if (Option.isNone(next)) break
        const text = next.value.text.trim()
        if (next.value.unseen) host.writeError(`${text}\n`)
        if (text === "exit") break
        if (text === "") continue
        if (text === "cls") {
          if (terminal) host.writeError("\u001b[2J\u001b[3J\u001b[H")
          continue
        }
        if (terminal) remember(text)
        if (terminal && /^\/(?!\/)/.test(text)) yield* obey(text)
        else {
          asked = terminal && text.startsWith("//") ? text.slice(1) : text
          yield* tryAnswer(asked)
        }
      }
    })
)
