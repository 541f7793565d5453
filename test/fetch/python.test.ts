/** The cache is huggingface_hub's: what one program has fetched, the other finds. */
import { execFile } from "node:child_process"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { promisify } from "node:util"

import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"

import { FetchSettings, fetchSnapshot } from "../../ts/fetch/fetch.ts"
import { Native } from "../../ts/native/index.ts"
import { python, pythonHas } from "../python.ts"
import { mainCommit } from "./hub.ts"
import { fetchFrom, newFolder, noise, settingsFor, useHub } from "./support.ts"

const there = pythonHas("huggingface_hub")

const hub = useHub()
const files = { "config.json": "{}", "sub/weights.bin": noise(5000), "sub/deep/a.txt": "一\n" }

/** Runs a program with huggingface_hub; answers what it prints. */
const run = async (folder: string, program: string, env: Record<string, string> = {}): Promise<string> => {
  const { stdout } = await promisify(execFile)(python, ["-c", `from huggingface_hub import *\n${program}`], {
    env: {
      PATH: process.env.PATH,
      HOME: folder,
      HF_ENDPOINT: hub.address,
      HF_HUB_CACHE: join(folder, "hub"),
      HF_HUB_DISABLE_XET: "1",
      HF_HUB_DISABLE_TELEMETRY: "1",
      ...env
    }
  })
  return stdout.trim()
}

describe.skipIf(!there)("huggingface_hub", () => {
  it("finds what we fetched, offline and online, and fetches nothing again", async () => {
    hub.repositories.push({ kind: "model", name: "owner/name", files })
    const folder = newFolder()
    const report = await fetchFrom(hub, folder, { from: "hf:owner/name" })
    const snapshot = `print(snapshot_download("owner/name"))`
    expect(await run(folder, snapshot, { HF_HUB_OFFLINE: "1" })).toBe(report.folder)
    hub.requests.length = 0
    expect(await run(folder, snapshot)).toBe(report.folder)
    expect(hub.contents()).toEqual([])
    const one = `print(hf_hub_download("owner/name", "sub/weights.bin", revision="${mainCommit}"))`
    expect(await run(folder, one, { HF_HUB_OFFLINE: "1" })).toBe(join(report.folder, "sub/weights.bin"))
    const scan = `
info = scan_cache_dir()
assert not info.warnings, info.warnings
[repo] = info.repos
print(repo.repo_id, repo.repo_type, repo.nb_files, repo.refs.keys())`
    expect(await run(folder, scan)).toBe("owner/name model 3 dict_keys(['main'])")
  })

  it("has fetched what we find, offline and online", async () => {
    hub.repositories.push({ kind: "dataset", name: "owner/rows", files })
    const folder = newFolder()
    const path = await run(folder, `print(snapshot_download("owner/rows", repo_type="dataset"))`)
    hub.requests.length = 0
    expect(await fetchFrom(hub, folder, { from: "hf:datasets/owner/rows" })).toMatchObject({
      folder: path,
      fetchedBytes: 0
    })
    expect(hub.contents()).toEqual([])
    const offline = await fetchFrom(hub, folder, { from: "hf:datasets/owner/rows" }, { HF_HUB_OFFLINE: "1" })
    expect(offline).toMatchObject({ folder: path, files: Object.keys(files).toSorted() })
  })

  it("leaves the same tree on disk as we do", async () => {
    hub.repositories.push({ kind: "model", name: "owner/name", files })
    const [ours, theirs] = [newFolder(), newFolder()]
    await fetchFrom(hub, ours, { from: "hf:owner/name" })
    await run(theirs, `snapshot_download("owner/name")`)
    const tree = (folder: string) =>
      readdirSync(join(folder, "hub"), { recursive: true, encoding: "utf8" })
        .filter((name) => !name.startsWith(".locks"))
        .toSorted()
    expect(tree(ours)).toEqual(tree(theirs))
    const listing = join("hub", "models--owner--name", "trees", `${mainCommit}.json`)
    const read = (folder: string) => JSON.parse(readFileSync(join(folder, listing), "utf8")) as unknown
    expect(read(ours)).toEqual(read(theirs))
  })

  it("waits for our lock, and we for its", async () => {
    hub.repositories.push({ kind: "model", name: "owner/name", files })
    const folder = newFolder()
    const lock = join(folder, "hub", ".locks", "models--owner--name", "held.lock")
    const program = `
import time
from pathlib import Path
from huggingface_hub.utils import WeakFileLock
Path("${lock}").parent.mkdir(parents=True)
with WeakFileLock("${lock}"):
    Path("${folder}/held").touch()
    while not Path("${folder}/go").exists(): time.sleep(0.01)
print("released")`
    const holding = run(folder, program)
    while (!existsSync(join(folder, "held"))) await new Promise((done) => setTimeout(done, 10))
    const take = Effect.flatMap(Native, (native) => native.tryLock(lock)).pipe(Effect.provide(Native.layer))
    expect(await Effect.runPromise(take)).toBeNull()
    await promisify(execFile)("touch", [join(folder, "go")])
    expect(await holding).toBe("released")
    const ours = await Effect.runPromise(take)
    const attempt = `
from filelock import FileLock, Timeout
try:
    FileLock("${lock}").acquire(timeout=0.1)
    print("taken")
except Timeout:
    print("waits")`
    expect(await run(folder, attempt)).toBe("waits")
    ours?.release()
    expect(await run(folder, attempt)).toBe("taken")
  })

  it("two of us fetch a file once", async () => {
    hub.repositories.push({ kind: "model", name: "owner/name", files })
    const folder = newFolder()
    hub.faults.push({ match: /raw/, times: 1, cutAfter: 1000 })
    const one = fetchSnapshot({ from: "hf:owner/name:sub/weights.bin" }).pipe(
      Effect.provideService(FetchSettings, settingsFor(hub, folder)),
      Effect.provide(Native.layer)
    )
    const reports = await Effect.runPromise(Effect.all([one, one], { concurrency: 2 }))
    expect(reports.map(({ fetchedBytes }) => fetchedBytes).toSorted((a, b) => a - b)).toEqual([0, 5000])
    expect(hub.contents()).toHaveLength(2)
  })
})
