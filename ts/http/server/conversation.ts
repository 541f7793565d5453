/**
 * A conversation as the one text that the model reads. It was trained on single turns, so by default it is asked the
 * last question alone. With `turns` earlier questions and answers stand before it (docs/serving.md):
 *
 *     系统：…
 *     问：…
 *     答：…
 *     问：…
 */
import type { Message } from "../api/openai.ts"

/** The text of a message; parts are joined by lines. */
export const textOf = ({ content }: Message): string =>
  typeof content === "string" ? content : (content ?? []).map(({ text }) => text).join("\n")

/** The prompt of a conversation: the last thing that a user says; undefined where nobody says anything. */
export const promptOf = (messages: ReadonlyArray<Message>, turns: number): string | undefined => {
  const last = messages.findLastIndex((message) => message.role === "user" && textOf(message).trim() !== "")
  const question = messages[last]
  if (question === undefined) return undefined
  const said = messages.slice(0, last).filter(({ role }) => role === "user" || role === "assistant")
  // A turn is a question and what was answered.
  const from = said.map(({ role }, place) => (role === "user" ? place : -1)).filter((place) => place >= 0)
  const before = turns === 0 ? [] : said.slice(from.at(-turns) ?? 0)
  if (before.length === 0) return textOf(question)
  const system = messages.filter(({ role }) => role === "system" || role === "developer").map(textOf)
  return [
    ...system.map((text) => `系统：${text}`),
    ...before.map((message) => `${message.role === "user" ? "问" : "答"}：${textOf(message)}`),
    `问：${textOf(question)}`
  ].join("\n")
}
