/** Runs the real program over the real addon. */
import { spawn } from "node:child_process"
import type { ChildProcess, SpawnOptions } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"

export const root = resolve(import.meta.dirname, "../..")
export const bin = join(root, "bin", "chatlm.mjs")

export interface Ran {
  readonly status: number
  readonly out: string
  readonly error: string
}

const collect = (child: ChildProcess): Promise<Ran> =>
  new Promise((done) => {
    let out = ""
    let error = ""
    child.stdout?.on("data", (chunk) => (out += chunk))
    child.stderr?.on("data", (chunk) => (error += chunk))
    child.on("close", (status) => done({ status: status ?? -1, out, error }))
  })

/** Starts a command; `ran` tells how it ended. */
export const start = (command: string, args: ReadonlyArray<string>, options: SpawnOptions = {}) => {
  const child = spawn(command, args, { cwd: root, stdio: ["pipe", "pipe", "pipe"], ...options })
  return { child, ran: collect(child) }
}

export const startChatlm = (...args: ReadonlyArray<string>) => start(process.execPath, [bin, ...args])

export const chatlm = (...args: ReadonlyArray<string>): Promise<Ran> => {
  const { child, ran } = startChatlm(...args)
  child.stdin?.end()
  return ran
}

/** Runs the program under `prefix`, a shell line that ends where the command begins. */
export const chatlmUnder = (prefix: string, ...args: ReadonlyArray<string>): Promise<Ran> =>
  start("bash", ["-c", `${prefix} exec "$@"`, "bash", process.execPath, bin, ...args]).ran

/** The fields of the verbs' JSON that these tests read. */
export interface Value {
  readonly read: number
  readonly kept: number
  readonly same: number
  readonly empty: number
  readonly resumed: number
  readonly broken: number
  readonly dropped: Record<string, number>
  readonly duplicates: number
  readonly vocab_size: number
  readonly merged: number
  readonly max_logit_difference: number
  readonly response: string
  readonly tokens: ReadonlyArray<number>
  readonly bleu4: number
  readonly loss: number
  readonly perplexity: number
  readonly equal: boolean
  readonly parts: Record<string, boolean>
  readonly dtype?: string
}

export const ok = async (...args: ReadonlyArray<string>): Promise<Value> => {
  const ran = await chatlm(...args, "--json")
  if (ran.status !== 0) throw new Error(`chatlm ${args.join(" ")}: ${ran.status}\n${ran.error}${ran.out}`)
  const lines = ran.out
    .trim()
    .split("\n")
    .filter((line) => line !== "")
  return JSON.parse(lines.at(-1) ?? "null")
}

export const folder = () => {
  const path = mkdtempSync(join(tmpdir(), "chatlm-e2e-"))
  return {
    path,
    at: (...names: ReadonlyArray<string>) => join(path, ...names),
    remove: () => rmSync(path, { recursive: true, force: true })
  }
}

/** Questions with rule-like answers: small enough to learn in seconds. */
export const rows = (count: number): ReadonlyArray<{ prompt: string; response: string }> => {
  const digits = "零一二三四五六七八九"
  const animals = ["猫", "狗", "鱼", "鸟", "马", "牛", "羊", "虎"]
  return Array.from({ length: count }, (_, n) => {
    const [a, b] = [n % 10, Math.floor(n / 10) % 10]
    const animal = animals[Math.floor(n / 100) % animals.length]
    return {
      prompt: `${digits[a]}只${animal}和${digits[b]}只${animal}放在一起是什么？`,
      response: `是${digits[a]}又${digits[b]}只${animal}，它们都喜欢${digits[(a + b) % 10]}号的院子。`
    }
  })
}

export const writeJsonl = (path: string, values: ReadonlyArray<object>) =>
  writeFileSync(path, values.map((value) => `${JSON.stringify(value)}\n`).join(""))

/** A T5 of about a hundred thousand values. */
export const tinyModel = {
  d_model: 64,
  d_kv: 16,
  d_ff: 128,
  num_heads: 4,
  num_layers: 1,
  num_decoder_layers: 1
}
