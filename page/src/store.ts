/** What the browser keeps: conversations, one entry of localStorage each, settings and the key. */
import type { Failure } from "./client.ts"
import type { Language } from "./words.ts"

export interface Message {
  readonly id: string
  readonly role: "user" | "assistant"
  readonly text: string
  /** How an answer ended, where not by itself. */
  readonly end?: "stopped" | "length" | "failed"
  readonly failure?: Failure
  /** The model had no room for the whole question, or for all earlier turns. */
  readonly promptCut?: boolean
}

export interface Conversation {
  readonly id: string
  readonly title: string
  readonly created: number
  readonly updated: number
  readonly messages: ReadonlyArray<Message>
}

export interface Settings {
  readonly search: "own" | "greedy" | "drawn"
  readonly temperature: number
  readonly topP: number
  /** Left out where the server decides. */
  readonly length?: number | undefined
  readonly seed?: number | undefined
  readonly language: "auto" | Language
  readonly theme: "auto" | "light" | "dark"
}

export const defaults: Settings = {
  search: "own",
  temperature: 0.9,
  topP: 0.9,
  length: undefined,
  seed: undefined,
  language: "auto",
  theme: "auto"
}

const prefix = "chatlm.conversation."
const settingsKey = "chatlm.settings"
const keyKey = "chatlm.key"

export const newId = (): string =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join(
    ""
  )

/** A browser may refuse to keep anything: then nothing is remembered, and the page works all the same. */
const orElse = <A>(work: () => A, otherwise: A): A => {
  try {
    return work()
  } catch {
    return otherwise
  }
}

const parsed = (key: string): unknown =>
  orElse(() => {
    const text = localStorage.getItem(key)
    return text === null ? undefined : JSON.parse(text)
  }, undefined)

const isConversation = (value: unknown): value is Conversation => {
  const { id, title, messages, updated } = (value ?? {}) as Partial<Conversation>
  return (
    typeof id === "string" &&
    typeof title === "string" &&
    typeof updated === "number" &&
    Array.isArray(messages) &&
    messages.every(({ role, text }) => typeof role === "string" && typeof text === "string")
  )
}

/** All conversations, the newest first. */
export const loadConversations = (): ReadonlyArray<Conversation> =>
  orElse(() => Object.keys(localStorage), [])
    .filter((key) => key.startsWith(prefix))
    .map(parsed)
    .filter(isConversation)
    .sort((a, b) => b.updated - a.updated)

/** Whether there was room. */
export const keep = (conversation: Conversation): boolean =>
  orElse(() => {
    localStorage.setItem(prefix + conversation.id, JSON.stringify(conversation))
    return true
  }, false)

export const forget = (id: string): void => orElse(() => localStorage.removeItem(prefix + id), undefined)

/** Calls back when another tab changed what is kept. */
export const onForeignChange = (listener: () => void): void =>
  addEventListener("storage", ({ key }) => {
    if (key === null || key.startsWith(prefix)) listener()
  })

export const loadSettings = (): Settings => ({
  ...defaults,
  ...(parsed(settingsKey) as Partial<Settings> | undefined)
})

export const keepSettings = (settings: Settings): void =>
  orElse(() => localStorage.setItem(settingsKey, JSON.stringify(settings)), undefined)

export const loadKey = (): string =>
  orElse(() => sessionStorage.getItem(keyKey) ?? localStorage.getItem(keyKey) ?? "", "")

export const keepKey = (key: string, remember: boolean): void =>
  orElse(() => {
    sessionStorage.removeItem(keyKey)
    localStorage.removeItem(keyKey)
    if (key !== "") (remember ? localStorage : sessionStorage).setItem(keyKey, key)
  }, undefined)

/** The fields of OpenAI's API that the settings ask for. */
export const fieldsOf = ({ search, temperature, topP, length, seed }: Settings): Record<string, number> => ({
  ...(search === "greedy" ? { temperature: 0 } : {}),
  ...(search === "drawn" ? { temperature, top_p: topP } : {}),
  ...(length === undefined ? {} : { max_tokens: length }),
  ...(seed === undefined ? {} : { seed })
})

/** Saves a file of JSON on the user's machine. */
export const download = (name: string, value: unknown): void => {
  const address = URL.createObjectURL(
    new Blob([`${JSON.stringify(value, null, 2)}\n`], { type: "application/json" })
  )
  const link = document.createElement("a")
  link.href = address
  link.download = `${name.replaceAll(/[\\/:*?"<>|\s]+/g, "-").slice(0, 60)}.json`
  link.click()
  setTimeout(() => URL.revokeObjectURL(address), 10_000)
}
