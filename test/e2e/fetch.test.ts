/** Fetching by the real program: killed in the middle, gone on from, and used where a path may stand. */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs"
import { join } from "node:path"

import { afterAll, describe, expect, it } from "vitest"

import { noise, useHub } from "../fetch/support.ts"
import { bin, folder, start } from "./support.ts"

const hub = useHub()
const place = folder()
afterAll(place.remove)

const startFetch = (cache: string, ...args: ReadonlyArray<string>) =>
  start(process.execPath, [bin, ...args], {
    env: {
      ...process.env,
      HOME: place.path,
      HF_ENDPOINT: hub.address,
      HF_HUB_CACHE: cache,
      HF_HUB_OFFLINE: ""
    }
  })
const fetched = (cache: string, ...args: ReadonlyArray<string>) => startFetch(cache, ...args).ran
const weights = noise(200_000)
const rows = "prompt,response\n一,二\n三,四\n"

const blobs = (cache: string) => join(cache, "models--owner--name", "blobs")
const arrived = (cache: string) => {
  const [file] = existsSync(blobs(cache)) ? readdirSync(blobs(cache)) : []
  return file === undefined ? 0 : statSync(join(blobs(cache), file)).size
}

describe("chatlm fetch", () => {
  it.each([
    ["SIGKILL", null],
    ["SIGINT", 130]
  ] as const)("goes on after %s", async (signal, status) => {
    hub.repositories.push({ kind: "model", name: "owner/name", files: { "model.safetensors": weights } })
    const cache = place.at(signal)
    hub.faults.push({ match: /raw/, times: 1, stallAfter: 90_000 })
    const { child, ran } = startFetch(cache, "fetch", "hf:owner/name", "--json")
    while (arrived(cache) < 90_000) await new Promise((done) => setTimeout(done, 20))
    child.kill(signal)
    const ended = await ran
    expect(ended.status).toBe(status ?? -1)
    if (status !== null) expect(JSON.parse(ended.out).error.code).toBe("CANCELLED")
    expect(arrived(cache)).toBe(90_000)
    const again = await fetched(cache, "fetch", "hf:owner/name", "--json")
    expect(again).toMatchObject({ status: 0 })
    const report = JSON.parse(again.out)
    expect(report).toMatchObject({ bytes: 200_000, fetched_bytes: 110_000, from_cache: false })
    expect(readFileSync(join(report.path, "model.safetensors"))).toEqual(weights)
    expect(hub.contents().map(({ range }) => range)).toEqual([undefined, "bytes=90000-"])
  })

  it("a disk that fills up is told, what came is kept and gone on from", async () => {
    hub.repositories.push({ kind: "model", name: "owner/name", files: { "model.safetensors": weights } })
    const cache = place.at("full")
    const env = {
      ...process.env,
      HOME: place.path,
      HF_ENDPOINT: hub.address,
      HF_HUB_CACHE: cache,
      HF_HUB_OFFLINE: ""
    }
    const limited = `ulimit -f 100; exec "$@"`
    const command = ["-c", limited, "bash", process.execPath, bin, "fetch", "hf:owner/name"]
    const ran = await start("bash", command, { env }).ran
    expect(ran.error).toContain("error[DISK_FULL]")
    expect(ran.status).toBe(3)
    expect(arrived(cache)).toBe(102_400)
    const again = await fetched(cache, "fetch", "hf:owner/name", "--json")
    expect(JSON.parse(again.out)).toMatchObject({ fetched_bytes: 97_600 })
  })

  it("prints the path of what was named, and errors as all verbs do", async () => {
    hub.repositories.push({
      kind: "dataset",
      name: "owner/rows",
      files: { "data/a.csv": rows, "README.md": "card" }
    })
    const cache = place.at("path")
    const one = await fetched(cache, "fetch", "hf:datasets/owner/rows:data/a.csv")
    expect(readFileSync(one.out.trim(), "utf8")).toBe(rows)
    expect(await fetched(cache, "fetch", "hf:owner/none")).toMatchObject({
      status: 2,
      error: expect.stringContaining("error[INPUT_NOT_FOUND]: hf:owner/none is not on")
    })
    expect(await fetched(cache, "fetch", "owner/name")).toMatchObject({ status: 1 })
  })

  it("inputs may be on the hub", async () => {
    hub.repositories.push({
      kind: "dataset",
      name: "owner/rows",
      files: { "data/a.csv": rows, "README.md": "card" }
    })
    const cache = place.at("inputs")
    const merged = place.at("merged.jsonl")
    expect(
      await fetched(cache, "merge", "--in", "hf:datasets/owner/rows", "--out", merged, "--json")
    ).toMatchObject({ status: 0 })
    expect(readFileSync(merged, "utf8")).toBe(
      '{"prompt":"一","response":"二"}\n{"prompt":"三","response":"四"}\n'
    )
    const inspected = await fetched(cache, "inspect", "hf:owner/rows:data/*.csv", "--json")
    expect(JSON.parse(inspected.out).rows).toBe(2)
  })

  it("a model may be on the hub: only what is read of it is fetched", async () => {
    hub.repositories.push({
      kind: "model",
      name: "owner/name",
      files: { "config.json": "{}", "model.safetensors": "no weights", "pytorch_model.bin": weights }
    })
    const ran = await fetched(place.at("model"), "generate", "--model", "hf:owner/name", "--prompt", "一")
    expect(ran.status).toBe(2)
    expect(ran.error).toContain(join("models--owner--name", "snapshots"))
    expect(
      hub
        .contents()
        .map(({ path }) => path)
        .toSorted()
    ).toEqual(["/raw/model/owner/name/config.json", "/raw/model/owner/name/model.safetensors"])
  })
})
