import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"

import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { describe, expect, it } from "vitest"

import type { Progress } from "../../ts/native/index.ts"
import { mainCommit, TestHub } from "./hub.ts"
import { fetchEffect, fetchFrom, newFolder, noise, refusal, useHub } from "./support.ts"

const hub = useHub()
const weights = noise(300_000)
const model = {
  kind: "model",
  name: "owner/name",
  files: {
    "config.json": "{}",
    "model.safetensors": weights,
    "sub/一 b.txt": "text",
    "sub/c.bin": noise(500, 2)
  }
} as const

const cached = (folder: string, ...names: ReadonlyArray<string>) =>
  join(folder, "hub", "models--owner--name", ...names)
const incomplete = (folder: string) =>
  readdirSync(cached(folder, "blobs")).filter((name) => name.endsWith(".incomplete"))

describe("fetch", () => {
  it("brings a repository, page by page, into the cache", async () => {
    hub.repositories.push(model)
    const folder = newFolder()
    const progress: Array<Progress> = []
    const report = await fetchFrom(hub, folder, { from: "hf:owner/name" }, {}, progress)
    expect(report).toMatchObject({
      kind: "model",
      commit: mainCommit,
      folder: cached(folder, "snapshots", mainCommit),
      files: ["config.json", "model.safetensors", "sub/c.bin", "sub/一 b.txt"],
      bytes: 300_506,
      fetchedBytes: 300_506,
      fromCache: false
    })
    expect(readFileSync(join(report.folder, "model.safetensors"))).toEqual(weights)
    expect(readFileSync(join(report.folder, "sub/一 b.txt"), "utf8")).toBe("text")
    expect(readlinkSync(join(report.folder, "sub/c.bin"))).toMatch(/^\.\.\/\.\.\/\.\.\/blobs\/[0-9a-f]{64}$/)
    expect(readFileSync(cached(folder, "refs", "main"), "utf8")).toBe(mainCommit)
    expect(incomplete(folder)).toEqual([])
    expect(progress.at(-1)).toEqual({ stage: "fetch", done: 0.3, total: 0.3, unit: "MB" })
    expect(hub.requests.filter(({ path }) => path.includes("/tree/"))).toHaveLength(3)
  })

  it("asks for nothing twice", async () => {
    hub.repositories.push(model)
    const folder = newFolder()
    await fetchFrom(hub, folder, { from: "hf:owner/name" })
    hub.requests.length = 0
    const again = await fetchFrom(hub, folder, { from: "hf:owner/name" })
    expect(again.fetchedBytes).toBe(0)
    expect(hub.requests.map(({ path }) => path)).toEqual(["/api/models/owner/name/revision/main"])
    hub.requests.length = 0
    await fetchFrom(hub, folder, { from: `hf:owner/name@${mainCommit}` })
    expect(hub.requests).toEqual([])
  })

  it("takes files, folders and globs, and says what there is where nothing fits", async () => {
    hub.repositories.push(model)
    const files = async (path: string) =>
      (await fetchFrom(hub, newFolder(), { from: `hf:owner/name:${path}` })).files
    expect(await files("config.json")).toEqual(["config.json"])
    expect(await files("sub")).toEqual(["sub/c.bin", "sub/一 b.txt"])
    expect(await files("sub/*.txt")).toEqual(["sub/一 b.txt"])
    expect(await files("**/*.bin")).toEqual(["sub/c.bin"])
    expect(await refusal(hub, newFolder(), { from: "hf:owner/name:*.onnx" })).toMatchObject({
      code: "INPUT_NOT_FOUND",
      message: "hf:owner/name holds no *.onnx",
      help: expect.stringContaining("model.safetensors")
    })
    expect(await refusal(hub, newFolder(), { from: "hf:owner/name:none/a.txt" })).toMatchObject({
      code: "INPUT_NOT_FOUND",
      message: "hf:owner/name:none/a.txt: there is no such file or folder"
    })
  })

  it("finds a data set where no model has the name, and by its prefix", async () => {
    hub.repositories.push({ kind: "dataset", name: "owner/rows", files: { "a.jsonl": "{}\n" } })
    for (const from of ["hf:owner/rows", "hf:datasets/owner/rows", "hf://datasets/owner/rows/a.jsonl"]) {
      const folder = newFolder()
      expect(await fetchFrom(hub, folder, { from })).toMatchObject({ kind: "dataset", files: ["a.jsonl"] })
      expect(existsSync(join(folder, "hub", "datasets--owner--rows", "refs", "main"))).toBe(true)
    }
  })

  it("knows branches with slashes and tells of revisions that are not there", async () => {
    hub.repositories.push({ ...model, refs: { "refs/pr/1": "2".repeat(40), v1: mainCommit } })
    const folder = newFolder()
    expect(await fetchFrom(hub, folder, { from: "hf:owner/name@v1" })).toMatchObject({ commit: mainCommit })
    const error = await refusal(hub, folder, { from: "hf:owner/name@v9" })
    expect(error).toMatchObject({
      code: "INPUT_NOT_FOUND",
      message: "hf:owner/name@v9: there is no such revision"
    })
  })
})

describe("what goes wrong on the way", () => {
  const content = /raw\/.*model\.safetensors/
  const one = { from: "hf:owner/name:model.safetensors" }

  it("a connection that breaks is gone on from", async () => {
    hub.repositories.push(model)
    hub.faults.push({ match: content, times: 2, cutAfter: 100_000 })
    const report = await fetchFrom(hub, newFolder(), one)
    expect(readFileSync(join(report.folder, "model.safetensors"))).toEqual(weights)
    const ranges = hub.contents().map(({ range }) => range)
    expect(ranges).toHaveLength(3)
    expect(ranges[0]).toBeUndefined()
    for (const range of ranges.slice(1)) expect(range).toMatch(/^bytes=\d+-$/)
    expect(ranges[2]).toBe("bytes=200000-")
  })

  it("a connection that falls silent counts as broken", async () => {
    hub.repositories.push(model)
    hub.faults.push({ match: content, times: 1, stallAfter: 50_000 })
    const report = await fetchFrom(hub, newFolder(), one)
    expect(readFileSync(join(report.folder, "model.safetensors"))).toEqual(weights)
    expect(hub.contents().map(({ range }) => range)).toEqual([undefined, "bytes=50000-"])
  })

  it("a server that ignores the range gives the whole file again", async () => {
    hub.repositories.push(model)
    hub.faults.push(
      { match: content, times: 1, cutAfter: 1000 },
      { match: content, times: 1, ignoreRange: true }
    )
    const progress: Array<Progress> = []
    const report = await fetchFrom(hub, newFolder(), one, {}, progress)
    expect(readFileSync(join(report.folder, "model.safetensors"))).toEqual(weights)
    expect(Math.max(...progress.map(({ done }) => done))).toBe(0.3)
  })

  it("429 waits as long as it is asked to, 5xx a little", async () => {
    hub.repositories.push(model)
    hub.faults.push(
      { match: /revision\/main/, times: 1, status: 429, headers: { "retry-after": "1" } },
      { match: /tree/, times: 2, status: 503 },
      { match: content, times: 1, status: 500 }
    )
    const began = performance.now()
    await fetchFrom(hub, newFolder(), one)
    expect(performance.now() - began).toBeGreaterThan(1000)
  })

  it("gives up after five failures in a row, keeps what came, and says what to do", async () => {
    hub.repositories.push(model)
    const folder = newFolder()
    hub.faults.push({ match: content, times: 1, cutAfter: 1000 }, { match: content, times: 99, status: 503 })
    const error = await refusal(hub, folder, one)
    expect(error).toMatchObject({ code: "NETWORK", context: { status: 503 } })
    expect(error.message).toContain("model.safetensors")
    expect(hub.contents()).toHaveLength(5)
    const [kept = ""] = incomplete(folder)
    expect(readFileSync(cached(folder, "blobs", kept)).length).toBe(1000)
    hub.faults.length = 0
    hub.requests.length = 0
    const report = await fetchFrom(hub, folder, one)
    expect(hub.contents().map(({ range }) => range)).toEqual(["bytes=1000-"])
    expect(report.fetchedBytes).toBe(299_000)
  })

  it("does not wait for hours", async () => {
    hub.repositories.push(model)
    hub.faults.push({ match: /revision/, times: 1, status: 429, headers: { "retry-after": "7200" } })
    const error = await refusal(hub, newFolder(), one)
    expect(error.message).toContain("7200 seconds")
  })

  it("a wrong hash is thrown away, tried once more, and never seen", async () => {
    hub.repositories.push(model)
    const folder = newFolder()
    hub.faults.push({ match: content, times: 1, corrupt: true })
    const report = await fetchFrom(hub, folder, one)
    expect(readFileSync(join(report.folder, "model.safetensors"))).toEqual(weights)
    const other = newFolder()
    hub.faults.push({ match: content, times: 2, corrupt: true })
    const error = await refusal(hub, other, one)
    expect(error).toMatchObject({ code: "INPUT_FORMAT" })
    expect(readdirSync(cached(other, "blobs"))).toEqual([])
    expect(readdirSync(cached(other, "snapshots", mainCommit))).toEqual([])
  })

  it("a wrong hash of a small file is found too", async () => {
    hub.repositories.push(model)
    hub.faults.push({ match: /raw\/.*config/, times: 2, corrupt: true })
    expect(await refusal(hub, newFolder(), { from: "hf:owner/name:config.json" })).toMatchObject({
      code: "INPUT_FORMAT"
    })
  })

  it("what an earlier run left damaged, or too long, is fetched again", async () => {
    hub.repositories.push(model)
    for (const left of [noise(4000, 9), noise(400_000, 9), noise(300_000, 9)]) {
      const folder = newFolder()
      const report = await fetchFrom(hub, folder, { from: "hf:owner/name:config.json" })
      const probe = await fetchFrom(hub, newFolder(), one)
      const blob = readlinkSync(join(probe.folder, "model.safetensors")).split("/").at(-1) ?? ""
      writeFileSync(cached(folder, "blobs", `${blob}.incomplete`), left)
      await fetchFrom(hub, folder, one)
      expect(readFileSync(join(report.folder, "model.safetensors"))).toEqual(weights)
    }
  })

  it("more bytes than the file has are not taken", async () => {
    hub.repositories.push(model)
    hub.faults.push({ match: content, times: 1, extraBytes: 10 })
    const report = await fetchFrom(hub, newFolder(), one)
    expect(readFileSync(join(report.folder, "model.safetensors"))).toEqual(weights)
  })

  it("an interruption ends at once, keeps what came and holds nothing open", async () => {
    hub.repositories.push(model)
    const folder = newFolder()
    hub.faults.push({ match: content, times: 1, stallAfter: 70_000 })
    const fiber = Effect.runFork(fetchEffect(hub, folder, one))
    const file = () => existsSync(cached(folder, "blobs")) && incomplete(folder).length === 1
    while (!file() || readFileSync(cached(folder, "blobs", incomplete(folder)[0] ?? "")).length < 70_000) {
      await new Promise((done) => setTimeout(done, 5))
    }
    const began = performance.now()
    await Effect.runPromise(Fiber.interrupt(fiber))
    expect(performance.now() - began).toBeLessThan(500)
    hub.requests.length = 0
    await fetchFrom(hub, folder, one)
    expect(hub.contents().map(({ range }) => range)).toEqual(["bytes=70000-"])
  })

  it("interrupted again and again, wherever it is, it still arrives and leaves nothing beside", async () => {
    hub.repositories.push(model)
    const folder = newFolder()
    const output = join(folder, "out")
    const options = { from: "hf:owner/name", output }
    for (let delay = 0; delay < 40; delay += 3) {
      hub.faults.push({ match: /raw\/.*(model|c\.bin)/, times: 1, cutAfter: 20_000 })
      const fiber = Effect.runFork(fetchEffect(hub, folder, options))
      await new Promise((done) => setTimeout(done, delay))
      await Effect.runPromise(Fiber.interrupt(fiber))
      const left = existsSync(folder) ? readdirSync(folder, { recursive: true, encoding: "utf8" }) : []
      expect(left.filter((name) => name.endsWith(".tmp"))).toEqual([])
    }
    hub.faults.length = 0
    await fetchFrom(hub, folder, options)
    expect(readFileSync(join(output, "model.safetensors"))).toEqual(weights)
    expect(incomplete(folder)).toEqual([])
  })

  it("files of the same content are fetched once", async () => {
    hub.repositories.push({ ...model, files: { a: weights, b: weights, empty: "" } })
    const report = await fetchFrom(hub, newFolder(), { from: "hf:owner/name" })
    expect(readFileSync(join(report.folder, "b"))).toEqual(weights)
    expect(readFileSync(join(report.folder, "empty"), "utf8")).toBe("")
    expect(hub.contents()).toHaveLength(1)
  })

  it("a listing may not lead out of its folder", async () => {
    hub.repositories.push({ ...model, files: { "../../outside": "x" } })
    expect(await refusal(hub, newFolder(), { from: "hf:owner/name" })).toMatchObject({ code: "INPUT_FORMAT" })
  })

  it("another program's page is no hub", async () => {
    hub.faults.push({ match: /revision/, times: 1, status: 200 })
    expect(await refusal(hub, newFolder(), one)).toMatchObject({
      code: "NETWORK",
      message: expect.stringContaining("no JSON")
    })
  })
})

describe("who may see it", () => {
  const secret = { ...model, token: "hf_secret" }

  it("the token goes to the hub and to nobody else", async () => {
    hub.repositories.push(secret)
    await fetchFrom(hub, newFolder(), { from: "hf:owner/name" }, { HF_TOKEN: "hf_secret" })
    expect(hub.contents().some(({ host }) => host === "cdn")).toBe(true)
    for (const { host, authorization } of hub.requests) {
      expect(authorization).toBe(host === "hub" ? "Bearer hf_secret" : undefined)
    }
  })

  it("the token's file serves where the variable is not set", async () => {
    hub.repositories.push(secret)
    const folder = newFolder()
    const file = join(folder, ".cache", "huggingface", "token")
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, "hf_secret\n")
    await fetchFrom(hub, folder, { from: "hf:owner/name" })
  })

  it("what is private looks as if it were not there, and the message says both", async () => {
    hub.repositories.push(secret)
    expect(await refusal(hub, newFolder(), { from: "hf:owner/name" })).toMatchObject({
      code: "INPUT_NOT_FOUND",
      message: expect.stringContaining("hf:owner/name is not on"),
      help: expect.stringContaining("HF_TOKEN")
    })
  })

  it("what is gated says where to ask", async () => {
    hub.repositories.push({ ...secret, gated: true })
    const tokens: ReadonlyArray<Record<string, string>> = [{}, { HF_TOKEN: "other" }]
    for (const env of tokens) {
      expect(await refusal(hub, newFolder(), { from: "hf:owner/name" }, env)).toMatchObject({
        code: "PERMISSION_DENIED",
        message: expect.stringContaining("is gated"),
        help: expect.stringContaining("ask for access")
      })
    }
  })
})

describe("without the hub", () => {
  it("HF_HUB_OFFLINE takes what is there, whole, and asks nobody", async () => {
    hub.repositories.push(model)
    const folder = newFolder()
    const offline = { HF_HUB_OFFLINE: "1" }
    expect(await refusal(hub, folder, { from: "hf:owner/name" }, offline)).toMatchObject({
      code: "INPUT_NOT_FOUND",
      help: expect.stringContaining("HF_HUB_OFFLINE")
    })
    await fetchFrom(hub, folder, { from: "hf:owner/name:config.json" })
    hub.requests.length = 0
    expect(await fetchFrom(hub, folder, { from: "hf:owner/name:config.json" }, offline)).toMatchObject({
      fromCache: true
    })
    await fetchFrom(hub, folder, { from: "hf:owner/name:sub" })
    await refusal(hub, folder, { from: "hf:owner/name:model.safetensors" }, offline)
  })

  it("a hub that is down gives way to the cache", async () => {
    hub.repositories.push(model)
    const folder = newFolder()
    await fetchFrom(hub, folder, { from: "hf:owner/name" })
    hub.faults.push({ match: /./, times: 99, status: 502 })
    expect(await fetchFrom(hub, folder, { from: "hf:owner/name" })).toMatchObject({
      fromCache: true,
      fetchedBytes: 0
    })
  })

  it("a server that is not there is an error of the network", async () => {
    const gone = await new TestHub().start()
    const { address } = gone
    await gone.stop()
    for (const endpoint of [address, address.replace("127.0.0.1", "localhost")]) {
      const error = await refusal(hub, newFolder(), { from: "hf:owner/name" }, { HF_ENDPOINT: endpoint })
      expect(error).toMatchObject({ code: "NETWORK", message: expect.stringContaining("ECONNREFUSED") })
    }
  })
})

describe("an output folder", () => {
  it("gets copies, is found whole the next time, and nothing of the user's is replaced unasked", async () => {
    hub.repositories.push(model)
    const folder = newFolder()
    const output = join(folder, "out")
    const options = { from: "hf:owner/name", output }
    expect(await fetchFrom(hub, folder, options)).toMatchObject({ folder: output })
    expect(readFileSync(join(output, "model.safetensors"))).toEqual(weights)
    expect(() => readlinkSync(join(output, "model.safetensors"))).toThrow()
    await fetchFrom(hub, folder, options)
    writeFileSync(join(output, "config.json"), "[]")
    expect(await refusal(hub, folder, options)).toMatchObject({ code: "TARGET_EXISTS" })
    writeFileSync(join(output, "config.json"), "longer")
    hub.requests.length = 0
    expect(await refusal(hub, newFolder(), { ...options })).toMatchObject({ code: "TARGET_EXISTS" })
    expect(hub.contents()).toEqual([])
    await fetchFrom(hub, folder, { ...options, force: true })
    expect(readFileSync(join(output, "config.json"), "utf8")).toBe("{}")
    expect(readdirSync(output).toSorted()).toEqual(["config.json", "model.safetensors", "sub"])
  })
})

describe("ModelScope", () => {
  it("brings models and data sets, checked by their hashes, resumed", async () => {
    hub.repositories.push(model, { kind: "dataset", name: "owner/rows", files: { "a.jsonl": "{}\n" } })
    const folder = newFolder()
    hub.faults.push({ match: /FilePath=model/, times: 1, cutAfter: 1000 })
    const report = await fetchFrom(
      hub,
      folder,
      { from: "modelscope:owner/name" },
      { MODELSCOPE_API_TOKEN: "ms" }
    )
    expect(report).toMatchObject({ revision: "master", files: expect.arrayContaining(["model.safetensors"]) })
    expect(readFileSync(join(report.folder, "model.safetensors"))).toEqual(weights)
    expect(report.folder).toContain(join(folder, ".cache", "chatlm", "modelscope", "models--owner--name"))
    expect(hub.requests.at(-1)?.cookie).toBe("m_session_id=ms")
    const rows = await fetchFrom(hub, folder, { from: "modelscope:owner/rows" })
    expect(rows).toMatchObject({ kind: "dataset", files: ["a.jsonl"] })
    hub.requests.length = 0
    expect(await fetchFrom(hub, folder, { from: "modelscope:owner/name" })).toMatchObject({ fetchedBytes: 0 })
  })

  it("says what is not there", async () => {
    expect(await refusal(hub, newFolder(), { from: "modelscope:owner/none" })).toMatchObject({
      code: "INPUT_NOT_FOUND"
    })
  })
})
