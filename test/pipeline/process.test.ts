/** The real program on a toy pipeline: killed, interrupted, asked. */
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { setTimeout } from "node:timers/promises"

import { describe, expect, it } from "vitest"

import { newRoot } from "./support.ts"

const program = resolve(import.meta.dirname, "../../ts/chatlm.ts")
const slow = resolve(import.meta.dirname, "fixtures/slow.ts")

const start = (args: ReadonlyArray<string>, log = "/dev/null") => {
  const child = spawn(process.execPath, [program, ...args], {
    env: { ...process.env, CHATLM_TEST_LOG: log },
    stdio: ["ignore", "pipe", "pipe"]
  })
  let out = ""
  let err = ""
  child.stdout.on("data", (chunk) => (out += String(chunk)))
  child.stderr.on("data", (chunk) => (err += String(chunk)))
  const ended = new Promise<{ status: number | null; out: string; err: string }>((done) =>
    child.on("close", (status) => done({ status, out, err }))
  )
  return { child, ended }
}

const chatlm = (...args: ReadonlyArray<string>) => start(args).ended
const lines = (file: string) => readFileSync(file, "utf8").trim().split("\n")
const until = async (file: string, line: RegExp) => {
  writeFileSync(file, "", { flag: "a" })
  while (!lines(file).some((text) => line.test(text))) await setTimeout(10)
}
const hash = (file: string) => createHash("sha256").update(readFileSync(file)).digest("hex")

describe("chatlm run", () => {
  it("killed at five moments, it ends with the bytes of an undisturbed run", async () => {
    const undisturbed = JSON.parse((await chatlm("run", slow, "--root", newRoot(), "--json")).out) as {
      results: { model: string }
    }
    const root = newRoot()
    const log = join(root, "log")
    for (const [line, wait] of [
      [/rows/, 50],
      [/rows/, 250],
      [/model/, 0],
      [/model/, 100],
      [/model/, 100]
    ] as const) {
      writeFileSync(log, "")
      const { child, ended } = start(["run", slow, "--root", root], log)
      await until(log, line)
      await setTimeout(wait)
      child.kill("SIGKILL")
      await ended
    }
    writeFileSync(log, "")
    const { status, out } = await start(["run", slow, "--root", root, "--json"], log).ended
    expect(status).toBe(0)
    const result = JSON.parse(out) as typeof undisturbed
    expect(hash(result.results.model)).toBe(hash(undisturbed.results.model))
    // It went on from where it was instead of starting over.
    expect(lines(log)).toEqual([expect.stringMatching(/^model from [1-9]/)])
    writeFileSync(log, "")
    expect((await start(["run", slow, "--root", root], log).ended).status).toBe(0)
    expect(lines(log)).toEqual([""])
  }, 60_000)

  it("Ctrl+C ends it with 130, and it goes on afterwards", async () => {
    const root = newRoot()
    const log = join(root, "log")
    const { child, ended } = start(["run", slow, "--root", root, "--json"], log)
    await until(log, /model/)
    await setTimeout(150)
    child.kill("SIGINT")
    const { status, out } = await ended
    expect(status).toBe(130)
    expect(JSON.parse(out)).toMatchObject({ error: { code: "CANCELLED" } })
    expect((await chatlm("run", slow, "--root", root)).status).toBe(0)
    const runs = JSON.parse((await chatlm("runs", "--root", root, "--json")).out) as Array<{ state: string }>
    expect(runs.map(({ state }) => state).toSorted()).toEqual(["done", "interrupted"])
    const shown = await chatlm("runs", "show", "--root", root)
    expect(shown.out).toMatch(/model +kept|model +done/)
    expect(JSON.parse((await chatlm("runs", "gc", "--root", root, "--json")).out)).toMatchObject({ kept: 2 })
  }, 60_000)

  it("a module outside of any package gets this chatlm; what is no pipeline is told", async () => {
    const folder = mkdtempSync(join(tmpdir(), "chatlm-module-"))
    const write = (name: string, text: string) => {
      writeFileSync(join(folder, name), text)
      return join(folder, name)
    }
    writeFileSync(join(folder, "package.json"), `{"type":"module"}`)
    const text = readFileSync(slow, "utf8").replace("../../../ts/pipeline/index.ts", "chatlm/pipeline")
    const good = await chatlm("run", write("good.ts", text), "--root", newRoot(), "--until", "rows", "--json")
    expect(good.err).toMatch(/^\[1\/1\] rows/)
    expect(good.status).toBe(0)
    const wrong = await chatlm("run", write("wrong.ts", "export default 1"), "--root", newRoot())
    expect(wrong.status).toBe(2)
    expect(wrong.err).toMatch(
      /^error\[CONFIG_INVALID\]: .*wrong\.ts: its default export is not a pipeline\nhelp: /
    )
    const broken = await chatlm("run", write("broken.ts", "const a: = 1"), "--root", newRoot())
    expect(broken.status).toBe(2)
    const missing = await chatlm("run", join(folder, "missing.ts"), "--root", newRoot())
    expect(missing.status).toBe(2)
    expect(missing.err).toContain("error[INPUT_NOT_FOUND]")
  }, 60_000)

  it("--dry-run says what would run, --until a wrong stage which there are", async () => {
    const root = newRoot()
    const dry = JSON.parse((await chatlm("run", slow, "--root", root, "--dry-run", "--json")).out) as object
    expect(dry).toMatchObject({
      stages: [
        { stage: "rows", state: "pending" },
        { stage: "model", state: "pending" }
      ]
    })
    const wrong = await chatlm("run", slow, "--root", root, "--until", "modell")
    expect(wrong.status).toBe(1)
    expect(wrong.err).toContain(`did you mean "model"?`)
  }, 60_000)
})
