/** What is done again and what is not. */
import { readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs"
import { cp } from "node:fs/promises"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { describe, expect, it } from "vitest"

import { given, Ledger, collectGarbage, listRecords } from "../../ts/pipeline/index.ts"
import type { PipelineEvent } from "../../ts/pipeline/index.ts"
import { counting, effectOf, first, newRoot, pipeline, run, states, suffix } from "./support.ts"
import type { Log } from "./support.ts"

const chain = (log: Log, settings: { text?: string; middle?: string; end?: string } = {}) => {
  const rows = first(log, settings.text)
  const middle = suffix(log, rows, settings.middle ?? "1", "middle")
  const end = suffix(log, middle, settings.end ?? "2", "end")
  return pipeline("toys", { middle, end })
}

const never = () => new Promise<never>(() => {})

describe("results are kept by what made them", () => {
  it("a second run does nothing and answers the same", async () => {
    const root = newRoot()
    const log: Log = []
    const one = await run(root, chain(log))
    expect(states(one)).toEqual({ first: "done", middle: "done", end: "done" })
    expect(readFileSync(one.results.end ?? "", "utf8")).toBe("a12\nb12\n")
    const two = await run(root, chain(log))
    expect(states(two)).toEqual({ first: "kept", middle: "kept", end: "kept" })
    expect(two.results).toEqual(one.results)
    expect(log).toEqual(["first", "middle", "end"])
  })

  it("a changed setting runs its stage and what depends on it, and going back finds the old results", async () => {
    const root = newRoot()
    const log: Log = []
    await run(root, chain(log))
    expect(states(await run(root, chain(log, { end: "3" })))).toEqual({
      first: "kept",
      middle: "kept",
      end: "done"
    })
    expect(states(await run(root, chain(log, { middle: "0" })))).toEqual({
      first: "kept",
      middle: "done",
      end: "done"
    })
    expect(states(await run(root, chain(log)))).toEqual({ first: "kept", middle: "kept", end: "kept" })
  })

  it("an input that comes out the same stops the chain", async () => {
    const root = newRoot()
    const log: Log = []
    await run(root, chain(log))
    const again = await run(root, chain(log), { rerun: ["middle"] })
    expect(states(again)).toEqual({ first: "kept", middle: "done", end: "kept" })
  })

  it("content decides for a file from outside, not its time", async () => {
    const root = newRoot()
    const file = join(newRoot(), "mine.txt")
    writeFileSync(file, "x\n")
    const log: Log = []
    const make = () => pipeline("mine", { end: suffix(log, given("pairs", file), "!", "end") })
    await run(root, make())
    utimesSync(file, 1, 1)
    expect(states(await run(root, make()))).toEqual({ end: "kept" })
    writeFileSync(file, "y\n")
    expect(states(await run(root, make()))).toEqual({ end: "done" })
  })

  it("equal inputs give equal manifests but for their times", async () => {
    const manifests = []
    for (const root of [newRoot(), newRoot()]) {
      const { stages } = await run(root, chain([]))
      manifests.push(
        stages.map(({ manifest }) => ({
          key: manifest?.key,
          outputs: Object.values(manifest?.outputs ?? {}).map(({ sha256 }) => sha256)
        }))
      )
    }
    expect(manifests[0]).toEqual(manifests[1])
  })

  it("--until runs what a stage needs and no more, --dry-run nothing", async () => {
    const root = newRoot()
    const log: Log = []
    expect(states(await run(root, chain(log), { dryRun: true }))).toEqual({
      first: "pending",
      middle: "pending",
      end: "pending"
    })
    expect(log).toEqual([])
    expect(states(await run(root, chain(log), { until: "middle" }))).toEqual({
      first: "done",
      middle: "done"
    })
    expect(states(await run(root, chain(log), { dryRun: true }))).toEqual({
      first: "kept",
      middle: "kept",
      end: "pending"
    })
    await expect(run(root, chain(log), { until: "midle" })).rejects.toMatchObject({
      code: "USAGE",
      help: expect.stringContaining('"middle"')
    })
  })
})

describe("what went wrong is found and done again", () => {
  it("a failed stage is not remembered and leaves nothing", async () => {
    const root = newRoot()
    const log: Log = []
    const failing = pipeline("toys", {
      end: suffix(log, first(log), "1", "end", () => Promise.reject(new Error("no")))
    })
    await expect(run(root, failing)).rejects.toMatchObject({ code: "INTERNAL" })
    expect(readdirSync(join(root, "work"))).toEqual([])
    const good = pipeline("toys", { end: suffix(log, first(log), "1", "end") })
    expect(states(await run(root, good))).toEqual({ first: "kept", end: "done" })
    const records = await Effect.runPromise(listRecords.pipe(Effect.provide(Ledger.layer(root))))
    expect(records.map(({ state }) => state).toSorted()).toEqual(["done", "failed"])
  })

  it.each([
    ["shorter", (file: string) => writeFileSync(file, "a")],
    ["as long but other bytes", (file: string) => writeFileSync(file, "A1\nb1\n")],
    ["gone", (file: string) => rmSync(file)]
  ])("a result that is %s", async (_, harm) => {
    const root = newRoot()
    const log: Log = []
    const { results } = await run(root, chain(log))
    harm(results.middle ?? "")
    const events: Array<PipelineEvent> = []
    const again = await run(root, chain(log), {}, {}, events)
    // The same bytes come out, so what follows stays.
    expect(states(again)).toEqual({ first: "kept", middle: "done", end: "kept" })
    expect(events.find(({ type }) => type === "damaged")).toMatchObject({ stage: "middle" })
    expect(readFileSync(results.middle ?? "", "utf8")).toBe("a1\nb1\n")
  })

  it("other bytes under the old time and size are found with --verify", async () => {
    const root = newRoot()
    const { results, stages } = await run(root, chain([]))
    const modified = (stages[1]?.manifest?.outputs.rows?.files[0]?.modified ?? 0) / 1000
    writeFileSync(results.middle ?? "", "A1\nb1\n")
    utimesSync(results.middle ?? "", modified, modified)
    expect(states(await run(root, chain([]), { verify: true }))).toMatchObject({ middle: "done" })
  })

  it("a result without its manifest does not count", async () => {
    const root = newRoot()
    const { stages } = await run(root, chain([]))
    rmSync(join(stages[1]?.folder ?? "", "manifest.json"))
    expect(states(await run(root, chain([])))).toEqual({ first: "kept", middle: "done", end: "kept" })
  })

  it("results that were copied to another place are believed after one look", async () => {
    const root = newRoot()
    await run(root, chain([]))
    const other = newRoot()
    await cp(root, other, { recursive: true })
    expect(states(await run(other, chain([])))).toEqual({ first: "kept", middle: "kept", end: "kept" })
  })
})

describe("interruption", () => {
  const interrupted = async (root: string, what: ReturnType<typeof chain>) => {
    const fiber = Effect.runFork(effectOf(root, what))
    await new Promise((done) => setTimeout(done, 300))
    await Effect.runPromise(Fiber.interrupt(fiber))
    return fiber
  }

  it("throws away what a stage had half done", async () => {
    const root = newRoot()
    const log: Log = []
    await interrupted(root, pipeline("toys", { end: suffix(log, first(log), "1", "end", never) }))
    expect(log).toEqual(["first", "end"])
    expect(readdirSync(join(root, "work"))).toEqual([])
    expect(readdirSync(root)).not.toContain("lock")
    const records = await Effect.runPromise(listRecords.pipe(Effect.provide(Ledger.layer(root))))
    expect(records[0]).toMatchObject({
      state: "interrupted",
      stages: [{ state: "done" }, { state: "waiting" }]
    })
    const result = await run(root, pipeline("toys", { end: suffix(log, first(log), "1", "end") }))
    expect(states(result)).toEqual({ first: "kept", end: "done" })
    expect(readFileSync(result.results.end ?? "", "utf8")).toBe("a1\nb1\n")
  })

  it("keeps the work of a stage that resumes, and only until it is done", async () => {
    const root = newRoot()
    const log: Log = []
    let steps = 0
    const hold = async () => {
      steps += 1
      if (steps === 3) await never()
    }
    const make = () => pipeline("toys", { model: counting(log, first(log), 5, hold) })
    await interrupted(root, make())
    expect(steps).toBe(3)
    await run(root, make())
    expect(steps).toBe(5)
    expect(readdirSync(join(root, "work"))).toEqual([])
  })

  it("two runs at once over one ledger are refused", async () => {
    const root = newRoot()
    const fiber = Effect.runFork(
      effectOf(root, pipeline("toys", { end: suffix([], first([]), "1", "end", never) }))
    )
    await new Promise((done) => setTimeout(done, 200))
    await expect(run(root, chain([]))).rejects.toMatchObject({ code: "USAGE" })
    await Effect.runPromise(Fiber.interrupt(fiber))
    // The lock of a process that is gone does not count.
    writeFileSync(join(root, "lock"), "999999999 1\n")
    expect(states(await run(root, chain([])))).toMatchObject({ end: "done" })
  })
})

describe("runs gc", () => {
  it("removes what the newest run does not use", async () => {
    const root = newRoot()
    await run(root, chain([]))
    await new Promise((done) => setTimeout(done, 5))
    await run(root, chain([], { end: "9" }))
    const collect = (dry: boolean) =>
      Effect.runPromise(collectGarbage(1, dry).pipe(Effect.provide(Ledger.layer(root))))
    expect((await collect(true)).removed).toHaveLength(2)
    expect(readdirSync(join(root, "store"))).toHaveLength(4)
    await collect(false)
    expect(readdirSync(join(root, "store"))).toHaveLength(3)
    expect(states(await run(root, chain([], { end: "9" })))).toEqual({
      first: "kept",
      middle: "kept",
      end: "kept"
    })
  })
})
