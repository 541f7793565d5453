/**
 * Questions from a terminal: line editing and history by node:readline, and questions of several lines: a line that
 * ends in `\` goes on, `"""` begins and ends a block, and what is pasted stays one question.
 */
import { createInterface } from "node:readline"
import { Writable } from "node:stream"

export interface Typed {
  readonly text: string
  /** It was typed while an answer ran, so that nobody saw it. */
  readonly unseen: boolean
}

export interface EditorOptions {
  readonly input: NodeJS.ReadableStream
  readonly output: NodeJS.WritableStream
  readonly prompt: string
  /** The newest first. */
  readonly history: ReadonlyArray<string>
  /** What the tabulator completes a line to. */
  readonly complete: (line: string) => ReadonlyArray<string>
  readonly onQuestion: (typed: Typed) => void
  readonly onEnd: () => void
  /** Ctrl+C; a beginning of a question is forgotten where this answers false. */
  readonly onInterrupt: () => boolean
}

export interface Editor {
  /** Shows the prompt and what was typed so far. */
  readonly prompt: () => void
  /** While answers are written nothing of the keyboard is shown. */
  readonly mute: (muted: boolean) => void
  readonly close: () => void
}

const block = '"""'
/** Terminals that know it tell where something pasted begins and ends; others ignore it. */
const pasteOn = "\u001b[?2004h"
const pasteOff = "\u001b[?2004l"
/** Stands for a line end inside a line of the history. */
const lineEnd = "⏎"

export const openEditor = (options: EditorOptions): Editor => {
  const { input, output, prompt } = options
  let muted = false
  const gate = new Writable({
    write: (chunk: string | Uint8Array, _, done) => {
      if (!muted) output.write(chunk)
      done()
    }
  })
  Object.defineProperty(gate, "columns", { get: () => (output as { columns?: number }).columns ?? 80 })
  const resize = () => gate.emit("resize")
  output.on("resize", resize)

  const reader = createInterface({
    input,
    output: gate,
    prompt,
    terminal: true,
    history: options.history.map((text) => text.replaceAll("\n", lineEnd)),
    historySize: 1000,
    removeHistoryDuplicates: true,
    completer: (line: string) => [options.complete(line), line],
    // Esc alone is told from the beginning of a key's code after this time.
    escapeCodeTimeout: 100
  })
  output.write(pasteOn)
  let before: Array<string> = []
  let inBlock = false
  let pasting = false
  const onKey = (_: unknown, key: { readonly name?: string } | undefined) => {
    if (key?.name === "paste-start") pasting = true
    if (key?.name === "paste-end") pasting = false
  }
  input.on("keypress", onKey)
  const show = () => {
    reader.setPrompt(before.length > 0 || inBlock ? "… " : prompt)
    reader.prompt(true)
  }
  const finish = (line: string) => {
    const text = [...before, line].join("\n").replaceAll(lineEnd, "\n")
    before = []
    inBlock = false
    reader.setPrompt(prompt)
    options.onQuestion({ text, unseen: muted })
  }
  reader.on("line", (line) => {
    const edge = line.trim() === block
    if (edge && inBlock) {
      const last = before.pop() ?? ""
      return finish(last)
    }
    if (edge) inBlock = true
    else if (inBlock || pasting) before.push(line)
    else if (line.endsWith("\\")) before.push(line.slice(0, -1))
    else return finish(line)
    show()
  })
  reader.on("SIGINT", () => {
    if (options.onInterrupt()) return
    before = []
    inBlock = false
    reader.write(null, { ctrl: true, name: "e" })
    reader.write(null, { ctrl: true, name: "u" })
    output.write("\n(exit or Ctrl+D ends)\n")
    show()
  })
  reader.on("close", () => {
    output.write(pasteOff)
    options.onEnd()
  })
  return {
    prompt: show,
    mute: (value) => {
      muted = value
    },
    close: () => {
      input.removeListener("keypress", onKey)
      output.removeListener("resize", resize)
      reader.close()
    }
  }
}
