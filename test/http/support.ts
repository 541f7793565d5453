/** A small real model behind the real program. */
import { cpSync, existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"

import { folder, ok, rows, startChatlm, tinyModel, writeJsonl } from "../e2e/support.ts"

/** A little: what is drawn is text then, and not `[PAD]`, which counts as no token. */
export const learning = { maxSteps: 30, learningRate: 0.003, warmupSteps: 0 }

export const makeModel = async (learning: object = { maxSteps: 1 }) => {
  const dir = folder()
  writeJsonl(dir.at("train.jsonl"), rows(100))
  await ok(
    "tokenizer",
    "train",
    "--in",
    dir.at("train.jsonl"),
    "--out",
    dir.at("tokenizer"),
    "--vocab-size",
    "300"
  )
  const settings = {
    model: tinyModel,
    tokenizer: dir.at("tokenizer"),
    train: dir.at("train.jsonl"),
    out: dir.at("run"),
    maxLength: 48,
    ...learning
  }
  const set = Object.entries(settings).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])
  await ok("pretrain", ...set)
  const model = dir.at("run", "last")
  /** The same model, whose answers have so many tokens. */
  const ofLength = (tokens: number) => {
    const to = dir.at(`of-${tokens}`)
    // Written once: a server has its weights mapped, and would end where they are written over.
    if (existsSync(to)) return to
    cpSync(model, to, { recursive: true })
    const file = join(to, "generation_config.json")
    const settings = JSON.parse(readFileSync(file, "utf8"))
    writeFileSync(file, JSON.stringify({ ...settings, min_new_tokens: tokens, max_new_tokens: tokens }))
    return to
  }
  return { ...dir, model, ofLength }
}

/** Starts `chatlm serve`; answers its address and process. */
export const startServer = async (model: string, ...flags: ReadonlyArray<string>) => {
  const name = flags.includes("--model-name") ? [] : ["--model-name", "m"]
  const { child, ran } = startChatlm("serve", "--model", model, ...name, "--port", "0", ...flags)
  let said = ""
  const url = await new Promise<string>((done, fail) => {
    child.stderr?.on("data", (chunk) => {
      said += chunk
      const address = /listening on (\S+)/.exec(said)?.[1]
      if (address !== undefined) done(address)
    })
    child.on("close", () => fail(new Error(said)))
  })
  /** All that it has said on standard error. */
  const error = () => said
  return { url, child, ran, error, port: Number(new URL(url).port) }
}

/** Memory of a process in MB. */
export const residentMB = (pid: number): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) / 1024

/** A number of `/metrics`. */
export const metric = async (url: string, name: string): Promise<number> => {
  const text = await (await fetch(`${url}/metrics`)).text()
  return Number(new RegExp(`^chatlm_${name} (\\S+)`, "m").exec(text)?.[1] ?? Number.NaN)
}

export const post = (url: string, body: object, options: RequestInit = {}) =>
  fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    body: JSON.stringify({ model: "m", ...body }),
    ...options,
    headers: { "content-type": "application/json", ...options.headers }
  })

export const question = (content: string) => ({ messages: [{ role: "user", content }] })
