/**
 * What is known of a request for the log: one line when all of it is over, never its text unless that is asked for,
 * never a key.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as References from "effect/References"

import type { RequestEnd } from "../../generate/generate.ts"

/** What is collected while a request is answered. */
export interface RequestRecord {
  readonly id: string
  /** The place of its key in the list of keys. */
  readonly key: number | undefined
  status: number | undefined
  promptTokens: number
  completionTokens: number
  /** Prompts as the model got them and their answers, where the log is to hold them. */
  readonly texts: Array<{ readonly prompt: string; readonly answers: ReadonlyArray<string> }> | undefined
}

/** The record of the request that is being answered; none outside of one. */
export const CurrentRecord = Context.Reference<RequestRecord | undefined>("chatlm/http/CurrentRecord", {
  defaultValue: () => undefined
})

/** Counts what came of a prompt into its request's record. */
export const recordEnd = (record: RequestRecord | undefined, end: RequestEnd): void => {
  if (record === undefined) return
  record.promptTokens += end.promptTokens
  for (const { tokens } of end.answers) record.completionTokens += tokens.length
  const prompt = end.answers[0]?.prompt
  if (prompt !== undefined) {
    record.texts?.push({ prompt, answers: end.answers.map(({ response }) => response) })
  }
}

/** The longest path that is logged: the rest of a longer one is somebody's play. */
const longestPath = 200

export interface Ended {
  readonly method: string
  readonly url: string
  readonly milliseconds: number
  /** The client went away, or the server dropped it. */
  readonly aborted: boolean
}

/** The line of a request. Queries are left out: they are no part of the interface and may hold anything. */
export const logRequest = (record: RequestRecord, ended: Ended): Effect.Effect<void> =>
  Effect.logInfo("request").pipe(
    Effect.annotateLogs({
      id: record.id,
      method: ended.method,
      path: (ended.url.split(/[?#]/)[0] ?? "").slice(0, longestPath),
      status: record.status ?? 0,
      ms: Math.round(ended.milliseconds * 10) / 10,
      ...(record.promptTokens > 0
        ? { prompt_tokens: record.promptTokens, completion_tokens: record.completionTokens }
        : {}),
      ...(record.key === undefined ? {} : { key: record.key }),
      ...(ended.aborted ? { aborted: true } : {}),
      ...(record.texts === undefined || record.texts.length === 0 ? {} : { texts: record.texts })
    })
  )

/** Log lines as JSON objects on standard error: time, level, message, and what was annotated. */
export const jsonLines: Logger.Logger<unknown, void> = Logger.withConsoleError(
  Logger.make(({ date, fiber, logLevel, message }) => {
    const said = Array.isArray(message) && message.length === 1 ? message[0] : message
    const head = { time: date.toISOString(), level: logLevel.toLowerCase(), message: String(said) }
    return JSON.stringify({ ...head, ...fiber.getRef(References.CurrentLogAnnotations) })
  })
)
