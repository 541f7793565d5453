/**
 * A conversation as the one text that the model reads. It was trained on single turns, so by default it is asked the
 * last question alone. With `turns` earlier questions and answers stand before it (docs/serving.md):
 *
 *     系统：…
 *     问：…
 *     答：…
 *     问：…
 *
 * Where the model has no room for all of it the oldest turns are left out first, and the response says so.
 */
import type { Message } from "../api/openai.ts"

/** The text of a message; parts are joined by lines. */
export const textOf = ({ content }: Message): string =>
  typeof content === "string" ? content : (content ?? []).map(({ text }) => text).join("\n")

/**
 * The prompts of a conversation, each with a turn less than the one before; the last is what a user says last, alone.
 * None where nobody says anything.
 */
export const promptsOf = (messages: ReadonlyArray<Message>, turns: number): ReadonlyArray<string> => {
  const last = messages.findLastIndex((message) => message.role === "user" && textOf(message).trim() !== "")
  const question = messages[last]
  if (question === undefined) return []
  const said = messages.slice(0, last).filter(({ role }) => role === "user" || role === "assistant")
  // A turn is a question and what was answered.
  const from = said.map(({ role }, place) => (role === "user" ? place : -1)).filter((place) => place >= 0)
  const system = messages.filter(({ role }) => role === "system" || role === "developer").map(textOf)
  const after = (place: number) =>
    [
      ...system.map((text) => `系统：${text}`),
      ...said.slice(place).map((message) => `${message.role === "user" ? "问" : "答"}：${textOf(message)}`),
      `问：${textOf(question)}`
    ].join("\n")
  return [...(turns === 0 ? [] : from.slice(-turns).map(after)), textOf(question)]
}
