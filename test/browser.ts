/** A headless Chromium for tests, spoken to by its own protocol. Tests skip where none is found. */
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import { expect } from "vitest"

const program = process.env.CHATLM_BROWSER ?? "/usr/bin/chromium"

/** Whether there is a browser; says once where not. */
export const hasBrowser = existsSync(program)
if (!hasBrowser) process.stderr.write(`skipped: no browser at ${program} (set CHATLM_BROWSER)\n`)

interface Message {
  readonly id?: number
  readonly method?: string
  readonly params?: {
    readonly entry?: { readonly text: string }
    readonly request?: { readonly url: string }
  }
  readonly result?: {
    readonly result?: { readonly value?: unknown }
    readonly exceptionDetails?: { readonly exception?: { readonly description?: string } }
    readonly data?: string
  }
}

const codes: Record<string, readonly [code: string, number: number, text?: string]> = {
  Enter: ["Enter", 13, "\r"],
  Escape: ["Escape", 27],
  Tab: ["Tab", 9],
  ArrowUp: ["ArrowUp", 38],
  ArrowDown: ["ArrowDown", 40],
  " ": ["Space", 32, " "]
}

const modifiers = { alt: 1, control: 2, meta: 4, shift: 8 } as const

/** A page of the browser. */
export class Page {
  /** What its console and its policies complained of. */
  readonly complaints: Array<string> = []
  /** Addresses that it asked for. */
  readonly requests: Array<string> = []
  private readonly socket: WebSocket
  private readonly waiting = new Map<number, (message: Message) => void>()
  private last = 0

  private constructor(socket: WebSocket) {
    this.socket = socket
    socket.addEventListener("message", ({ data }) => {
      const message = JSON.parse(String(data)) as Message
      if (message.id !== undefined) this.waiting.get(message.id)?.(message)
      if (message.method === "Log.entryAdded") this.complaints.push(message.params?.entry?.text ?? "")
      if (message.method === "Runtime.exceptionThrown") this.complaints.push(JSON.stringify(message.params))
      if (message.method === "Network.requestWillBeSent")
        this.requests.push(message.params?.request?.url ?? "")
    })
  }

  static async connect(address: string): Promise<Page> {
    const socket = new WebSocket(address)
    await new Promise((done, fail) => {
      socket.addEventListener("open", done)
      socket.addEventListener("error", fail)
    })
    const page = new Page(socket)
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await page.call(`${domain}.enable`)
    // Without a window nothing else would count as focused.
    await page.call("Emulation.setFocusEmulationEnabled", { enabled: true })
    return page
  }

  call(method: string, params: object = {}): Promise<Message> {
    this.last += 1
    const id = this.last
    return new Promise((done) => {
      this.waiting.set(id, done)
      this.socket.send(JSON.stringify({ id, method, params }))
    })
  }

  async value(expression: string): Promise<unknown> {
    const { result } = await this.call("Runtime.evaluate", {
      expression,
      returnByValue: true,
      awaitPromise: true
    })
    if (result?.exceptionDetails) {
      throw new Error(`${expression.slice(0, 200)}: ${result.exceptionDetails.exception?.description}`)
    }
    return result?.result?.value
  }

  /** Waits until an expression says this. */
  async until(expression: string, wanted: unknown): Promise<void> {
    let found: unknown
    for (let n = 0; n < 150; n += 1) {
      // A page that is just being left throws.
      found = await this.value(expression).catch((error: unknown) => error)
      if (found === wanted) return
      await new Promise((done) => setTimeout(done, 100))
    }
    expect(found, expression).toEqual(wanted)
  }

  /** Puts text where the focus is, as an input method would. */
  async type(text: string): Promise<void> {
    await this.call("Input.insertText", { text })
  }

  async press(key: string, ...held: ReadonlyArray<keyof typeof modifiers>): Promise<void> {
    const [code, number, text] = codes[key] ?? [
      /^[a-z]$/i.test(key) ? `Key${key.toUpperCase()}` : "",
      key.toUpperCase().charCodeAt(0),
      key
    ]
    const isText = text !== undefined && !held.includes("alt") && !held.includes("control")
    const event = {
      key,
      code,
      windowsVirtualKeyCode: number,
      modifiers: held.reduce((sum, name) => sum + modifiers[name], 0),
      ...(isText ? { text } : {})
    }
    await this.call("Input.dispatchKeyEvent", { type: isText ? "keyDown" : "rawKeyDown", ...event })
    await this.call("Input.dispatchKeyEvent", { type: "keyUp", ...event })
  }

  async screenshot(file: string): Promise<void> {
    const { result } = await this.call("Page.captureScreenshot", { format: "png" })
    writeFileSync(file, Buffer.from(result?.data ?? "", "base64"))
  }

  /** The view's size in CSS pixels. */
  async resize(width: number, height: number, { mobile = false, scale = 1 } = {}): Promise<void> {
    await this.call("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: scale, mobile })
  }
}

/** Starts a browser with one empty page. */
export const openBrowser = async (): Promise<{
  readonly page: Page
  readonly close: () => Promise<void>
}> => {
  const profile = mkdtempSync(join(tmpdir(), "chatlm-browser-"))
  const args = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--remote-debugging-port=0",
    "--window-size=1400,1000",
    `--user-data-dir=${profile}`,
    "about:blank"
  ]
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] })
  const port = await new Promise<string>((done) => {
    let said = ""
    child.stderr.on("data", (text) => {
      said += text
      const found = /listening on ws:\/\/[^:]+:(\d+)/.exec(said)
      if (found?.[1] !== undefined) done(found[1])
    })
  })
  const targets = (await (await fetch(`http://127.0.0.1:${port}/json`)).json()) as ReadonlyArray<{
    type: string
    webSocketDebuggerUrl: string
  }>
  const page = await Page.connect(targets.find(({ type }) => type === "page")?.webSocketDebuggerUrl ?? "")
  const close = async () => {
    const ended = new Promise((done) => child.once("close", done))
    child.kill()
    await ended
    rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 })
  }
  return { page, close }
}
