/** The server as the page sees it: its model, its health, and answers as they are written. */

export type FailureKind = "key" | "busy" | "draining" | "large" | "refused" | "server" | "network" | "lost"

/** Why there is no answer, or not all of one. */
export interface Failure {
  readonly kind: FailureKind
  /** What the server said. */
  readonly detail?: string
  /** When it may be tried again, in milliseconds since 1970. */
  readonly after?: number
}

export class AskError extends Error {
  readonly failure: Failure
  constructor(failure: Failure) {
    super(failure.kind)
    this.failure = failure
  }
}

export interface Ask {
  readonly messages: ReadonlyArray<{ readonly role: string; readonly content: string }>
  /** OpenAI's fields: temperature, top_p, max_tokens, seed. */
  readonly fields: Readonly<Record<string, number>>
  readonly key: string
  readonly signal: AbortSignal
  readonly onText: (text: string) => void
  /** The model is not loaded yet; the question waits. */
  readonly onWaiting: () => void
}

const headersWith = (key: string): Record<string, string> => ({
  "content-type": "application/json",
  // Without any credential the server would refuse before it looks whether it wants one.
  authorization: `Bearer ${key === "" ? "none" : key}`
})

const messageOf = async (response: Response): Promise<string> => {
  try {
    const body = (await response.json()) as { error?: { message?: string }; detail?: string }
    return body.error?.message ?? body.detail ?? ""
  } catch {
    return ""
  }
}

/** Seconds that the server wants one to wait, named as a number or as a date. */
const waitOf = (response: Response): number => {
  const text = response.headers.get("retry-after") ?? ""
  const seconds = Number(text)
  const found = Number.isFinite(seconds) ? seconds : (Date.parse(text) - Date.now()) / 1000
  return Math.min(600, Math.max(1, Math.ceil(Number.isFinite(found) ? found : 1)))
}

const failureOf = async (response: Response): Promise<Failure> => {
  const detail = await messageOf(response)
  const { status } = response
  if (status === 401 || status === 403) return { kind: "key", detail }
  if (status === 429) return { kind: "busy", detail, after: Date.now() + waitOf(response) * 1000 }
  if (status === 413) return { kind: "large", detail }
  if (status === 503) return { kind: "draining", detail }
  return { kind: status >= 500 ? "server" : "refused", detail }
}

const request = async (path: string, init: RequestInit): Promise<Response> => {
  try {
    return await fetch(path, { ...init, cache: "no-store" })
  } catch (error) {
    if (init.signal?.aborted === true) throw error
    throw new AskError({ kind: "network" })
  }
}

/** The name of the model. */
export const modelName = async (key: string): Promise<string> => {
  const response = await request("/v1/models", { headers: headersWith(key) })
  if (!response.ok) throw new AskError(await failureOf(response))
  const { data } = (await response.json()) as { data: ReadonlyArray<{ id: string }> }
  return data[0]?.id ?? ""
}

const pause = (milliseconds: number, signal: AbortSignal) =>
  new Promise<void>((done, fail) => {
    const timer = setTimeout(done, milliseconds)
    signal.addEventListener("abort", () => {
      clearTimeout(timer)
      fail(signal.reason)
    })
  })

const isLoading = async (signal: AbortSignal): Promise<boolean> => {
  const response = await request("/health", { signal })
  return response.status === 503 && (await response.text()).includes("loading")
}

/** The data of server-sent events, one by one. */
async function* eventsOf(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let rest = ""
  try {
    for (;;) {
      const { done, value } = await reader.read()
      rest += decoder.decode(value, { stream: !done })
      const events = rest.split(/\r?\n\r?\n/)
      rest = events.pop() ?? ""
      for (const event of events) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"))
        if (lines.length > 0) yield lines.map((line) => line.slice(5).trimStart()).join("\n")
      }
      if (done) return
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

interface Chunk {
  /** The model had no room for all that was sent. */
  readonly prompt_cut?: boolean
  readonly error?: { readonly message?: string }
  readonly choices?: ReadonlyArray<{
    readonly delta?: { readonly content?: string }
    readonly finish_reason?: string | null
  }>
}

/** How an answer ended, and whether some of what was sent had to be left out. */
export interface End {
  readonly reason: "stop" | "length"
  readonly promptCut: boolean
}

/** Asks and tells the answer piece by piece. Fails with `AskError`, or when aborted. */
export const ask = async (given: Ask): Promise<End> => {
  const { signal, key, messages, fields } = given
  for (;;) {
    const model = await modelName(key)
    const response = await request("/v1/chat/completions", {
      method: "POST",
      signal,
      headers: headersWith(key),
      body: JSON.stringify({ model, messages, stream: true, ...fields })
    })
    if (response.status === 503 && (await isLoading(signal))) {
      given.onWaiting()
      await pause(1500, signal)
      continue
    }
    if (!response.ok || response.body === null) throw new AskError(await failureOf(response))
    return await read(response.body, given)
  }
}

const read = async (body: ReadableStream<Uint8Array>, { onText, signal }: Ask): Promise<End> => {
  let end: End = { reason: "stop", promptCut: false }
  try {
    for await (const data of eventsOf(body)) {
      if (data === "[DONE]") return end
      const { error, choices, prompt_cut } = JSON.parse(data) as Chunk
      if (error !== undefined) throw new AskError({ kind: "server", detail: error.message ?? "" })
      const choice = choices?.[0]
      if (choice?.delta?.content) onText(choice.delta.content)
      if (choice?.finish_reason === "length") end = { ...end, reason: "length" }
      if (prompt_cut === true) end = { ...end, promptCut: true }
    }
  } catch (error) {
    if (signal.aborted || error instanceof AskError) throw error
    throw new AskError({ kind: "lost" })
  }
  throw new AskError({ kind: "lost" })
}
