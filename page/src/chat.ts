/** All that happens on the page, without its looks: one conversation in view, one answer at a time. */
import { ask, AskError, modelName } from "./client.ts"
import * as store from "./store.ts"
import type { Conversation, Message, Settings } from "./store.ts"
import { languageOf, wordsIn } from "./words.ts"
import type { Words } from "./words.ts"

export interface State {
  readonly conversations: ReadonlyArray<Conversation>
  /** Left out where a new one is about to begin. */
  readonly current: string | undefined
  /** The conversation that an answer is being written for. */
  readonly answering: string | undefined
  /** The model is loading and the question waits. */
  readonly waiting: boolean
  readonly settings: Settings
  readonly model: string
  /** Whether a key is asked for, and whether one was refused. */
  readonly key: "none" | "asked" | "wrong"
  readonly removed: Conversation | undefined
  /** What a screen reader is told. */
  readonly said: string
  readonly storageFull: boolean
}

/** Earlier messages that are sent along; the server decides how many the model is told. */
const sentAlong = 20
const titleLength = 40

const titleOf = (text: string): string => {
  const line = text.trim().split("\n")[0] ?? ""
  const characters = [...line]
  return characters.length > titleLength ? `${characters.slice(0, titleLength).join("")}…` : line
}

export class Chat {
  state: State
  private readonly listeners = new Set<() => void>()
  private abort: AbortController | undefined
  private key = store.loadKey()
  private forgetRemoved: ReturnType<typeof setTimeout> | undefined

  constructor() {
    const conversations = store.loadConversations()
    this.state = {
      conversations,
      current: conversations[0]?.id,
      answering: undefined,
      waiting: false,
      settings: store.loadSettings(),
      model: "",
      key: "none",
      removed: undefined,
      said: "",
      storageFull: false
    }
    this.applySettings()
    store.onForeignChange(() => {
      if (this.state.answering !== undefined) return
      const loaded = store.loadConversations()
      const { current } = this.state
      this.set({
        conversations: loaded,
        current: loaded.some(({ id }) => id === current) ? current : loaded[0]?.id
      })
    })
    void this.greet()
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  get words(): Words {
    const { language } = this.state.settings
    return wordsIn(language === "auto" ? languageOf(navigator.languages) : language)
  }

  get conversation(): Conversation | undefined {
    return this.state.conversations.find(({ id }) => id === this.state.current)
  }

  private set(change: Partial<State>): void {
    this.state = { ...this.state, ...change }
    for (const listener of this.listeners) listener()
  }

  /** Puts a conversation in the place of its former self, or first where it is new. */
  private put(conversation: Conversation, { first = false, keep = true } = {}): void {
    const others = this.state.conversations.filter(({ id }) => id !== conversation.id)
    const isNew = others.length === this.state.conversations.length
    const conversations =
      isNew || first
        ? [conversation, ...others]
        : this.state.conversations.map((each) => (each.id === conversation.id ? conversation : each))
    this.set(keep ? { conversations, storageFull: !store.keep(conversation) } : { conversations })
  }

  private find(id: string): Conversation | undefined {
    return this.state.conversations.find((each) => each.id === id)
  }

  /** Learns the model's name, and whether a key is wanted; a server that does not answer yet is asked again. */
  private async greet(times = 5): Promise<void> {
    try {
      this.set({ model: await modelName(this.key), key: "none" })
    } catch (error) {
      this.noteKey(error)
      const asksForKey = error instanceof AskError && error.failure.kind === "key"
      if (!asksForKey && times > 1) setTimeout(() => void this.greet(times - 1), 2000)
    }
  }

  private noteKey(error: unknown): void {
    if (error instanceof AskError && error.failure.kind === "key") {
      this.set({ key: this.key === "" ? "asked" : "wrong" })
    }
  }

  /** Sends a question in the conversation in view, or begins one with it. */
  send(text: string): void {
    const question = text.trim()
    if (question === "" || this.state.answering !== undefined) return
    const now = Date.now()
    const conversation = this.conversation ?? {
      id: store.newId(),
      title: titleOf(question),
      created: now,
      updated: now,
      messages: []
    }
    const message: Message = { id: store.newId(), role: "user", text: question }
    this.set({ current: conversation.id })
    void this.answer({ ...conversation, messages: [...conversation.messages, message] })
  }

  /** Changes a question; what came after it falls. */
  change(id: string, text: string): void {
    const { conversation } = this
    const place = conversation?.messages.findIndex((message) => message.id === id) ?? -1
    const message = conversation?.messages[place]
    if (!conversation || !message || text.trim() === "" || this.state.answering !== undefined) return
    const messages = [...conversation.messages.slice(0, place), { ...message, text: text.trim() }]
    const title =
      place === 0 && conversation.title === titleOf(message.text) ? titleOf(text) : conversation.title
    void this.answer({ ...conversation, title, messages })
  }

  /** Asks for the last answer again. */
  retry(): void {
    const { conversation } = this
    const last = conversation?.messages.findLastIndex(({ role }) => role === "user") ?? -1
    if (!conversation || last < 0 || this.state.answering !== undefined) return
    void this.answer({ ...conversation, messages: conversation.messages.slice(0, last + 1) })
  }

  stop(): void {
    this.abort?.abort()
  }

  private async answer(conversation: Conversation): Promise<void> {
    const abort = new AbortController()
    this.abort = abort
    const { id } = conversation
    let reply: Message = { id: store.newId(), role: "assistant", text: "" }
    let keptAt = Date.now()
    const show = (change: Partial<Message>, keep: boolean) => {
      reply = { ...reply, ...change }
      const found = this.find(id) ?? conversation
      // A title that was given meanwhile stays.
      const messages = [...conversation.messages, reply]
      this.put({ ...found, messages, updated: Date.now() }, { keep })
    }
    this.put({ ...conversation, updated: Date.now() }, { first: true })
    this.set({ answering: id, waiting: false, said: this.words.answering })
    try {
      show({}, false)
      const { reason, promptCut } = await ask({
        messages: conversation.messages
          .slice(-sentAlong)
          .filter(({ text }) => text !== "")
          .map(({ role, text }) => ({ role, content: text })),
        fields: store.fieldsOf(this.state.settings),
        key: this.key,
        signal: abort.signal,
        onWaiting: () => this.set({ waiting: true, said: this.words.loading }),
        onText: (text) => {
          if (this.state.waiting) this.set({ waiting: false })
          // Kept once a second, so that a page that is closed loses little.
          const keep = Date.now() - keptAt > 1000
          if (keep) keptAt = Date.now()
          show({ text: reply.text + text }, keep)
        }
      })
      show({ ...(reason === "length" ? { end: reason } : {}), ...(promptCut ? { promptCut } : {}) }, true)
      this.set({ said: reply.text })
    } catch (error) {
      if (abort.signal.aborted) {
        show({ end: "stopped" }, true)
        this.set({ said: this.words.stopped })
      } else {
        const failure =
          error instanceof AskError ? error.failure : { kind: "server" as const, detail: String(error) }
        show({ end: "failed", failure }, true)
        this.noteKey(error)
        this.set({ said: "" })
      }
    } finally {
      this.abort = undefined
      this.set({ answering: undefined, waiting: false })
    }
  }

  begin(): void {
    this.set({ current: undefined })
  }

  open(id: string): void {
    this.set({ current: id })
  }

  /** Opens the conversation that stands so many places further down. */
  move(places: number): void {
    const { conversations, current } = this.state
    const place = conversations.findIndex(({ id }) => id === current)
    const next = conversations[Math.min(conversations.length - 1, Math.max(0, place + places))]
    if (next !== undefined) this.open(next.id)
  }

  rename(id: string, title: string): void {
    const conversation = this.find(id)
    if (conversation && title.trim() !== "") this.put({ ...conversation, title: title.trim().slice(0, 200) })
  }

  /** Deletes a conversation; for a while it can be brought back. */
  remove(id: string): void {
    const conversation = this.find(id)
    if (conversation === undefined) return
    if (this.state.answering === id) return
    store.forget(id)
    const place = this.state.conversations.indexOf(conversation)
    const conversations = this.state.conversations.filter((each) => each.id !== id)
    const current = conversations[Math.min(place, conversations.length - 1)]?.id
    this.set({ conversations, current, removed: conversation, said: this.words.removed(conversation.title) })
    clearTimeout(this.forgetRemoved)
    this.forgetRemoved = setTimeout(() => this.set({ removed: undefined }), 8000)
  }

  bringBack(): void {
    const { removed } = this.state
    if (removed === undefined) return
    this.put(removed)
    const conversations = this.state.conversations.toSorted((a, b) => b.updated - a.updated)
    this.set({ conversations, current: removed.id, removed: undefined })
  }

  exportOne(): void {
    const { conversation } = this
    if (conversation) store.download(conversation.title, conversation)
  }

  exportAll(): void {
    store.download("chatlm", this.state.conversations)
  }

  say(said: string): void {
    this.set({ said })
  }

  adjust(change: Partial<Settings>): void {
    const settings = { ...this.state.settings, ...change }
    store.keepSettings(settings)
    this.set({ settings })
    this.applySettings()
  }

  private applySettings(): void {
    const { theme, language } = this.state.settings
    const root = document.documentElement
    root.dataset["theme"] = theme
    root.lang = (language === "auto" ? languageOf(navigator.languages) : language) === "zh" ? "zh-CN" : "en"
  }

  async useKey(key: string, remember: boolean): Promise<void> {
    this.key = key.trim()
    store.keepKey(this.key, remember)
    await this.greet()
    const last = this.conversation?.messages.at(-1)
    // The question that the missing key stood against.
    if (this.state.key === "none" && last?.failure?.kind === "key") this.retry()
  }
}
