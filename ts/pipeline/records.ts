/** A record a run, for `chatlm runs`: which stages it went through, and how it ended. */
import { randomBytes } from "node:crypto"
import { basename, join } from "node:path"

import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"

import { makeError, wasInterrupted } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import * as Files from "./files.ts"
import { Ledger, now } from "./ledger.ts"
import { lock } from "./lock.ts"
import type { RunOptions, StageResult } from "./runner.ts"
import type { Stage } from "./stage.ts"

export interface RecordedStage {
  readonly stage: string
  readonly state: "waiting" | "kept" | "done" | "failed" | "pending"
  readonly key: string | null
}

export interface RunRecord {
  readonly id: string
  readonly pipeline: string
  /** `running` for good means that it was killed. */
  readonly state: "running" | "done" | "failed" | "interrupted"
  readonly startedAt: string
  readonly seconds: number
  readonly options: RunOptions
  readonly stages: ReadonlyArray<RecordedStage>
  readonly error: { readonly stage: string; readonly code: string; readonly message: string } | null
}

/** Starts the record of a run. */
export const openRecord = Effect.fnUntraced(function* (
  pipeline: string,
  stages: ReadonlyArray<Stage>,
  options: RunOptions
) {
  const ledger = yield* Ledger
  const began = yield* now
  const stamp = new Date(began).toISOString().replaceAll(/[-:]|\.\d+Z/g, "")
  // Sorts by time; the tail keeps two runs of one second apart.
  const id = `${stamp}-${randomBytes(2).toString("hex")}`
  const file = join(ledger.root, "runs", `${id}.json`)
  let record: RunRecord = {
    id,
    pipeline,
    state: "running",
    startedAt: new Date(began).toISOString(),
    seconds: 0,
    options,
    stages: stages.map(({ name }) => ({ stage: name, state: "waiting", key: null })),
    error: null
  }
  const change = (update: Partial<RunRecord>) =>
    Effect.gen(function* () {
      record = { ...record, ...update, seconds: ((yield* now) - began) / 1000 }
      yield* Files.writeWhole(file, JSON.stringify(record, null, 2))
    })
  const mark = (one: RecordedStage) => record.stages.map((stage) => (stage.stage === one.stage ? one : stage))
  yield* change({})
  return {
    add: ({ stage, state, key }: StageResult) => change({ stages: mark({ stage, state, key }) }),
    failed: (stage: string, { code, message }: ChatlmError) =>
      Effect.ignore(
        change({ stages: mark({ stage, state: "failed", key: null }), error: { stage, code, message } })
      ),
    close: (exit: Exit.Exit<unknown, unknown>) =>
      Effect.ignore(
        change({ state: exit._tag === "Success" ? "done" : wasInterrupted(exit) ? "interrupted" : "failed" })
      )
  }
})

const isRecord = (value: unknown): value is RunRecord =>
  typeof value === "object" && value !== null && "id" in value && "pipeline" in value && "stages" in value

/** All records, the newest first. */
export const listRecords: Effect.Effect<ReadonlyArray<RunRecord>, ChatlmError, Ledger> = Effect.gen(
  function* () {
    const { root } = yield* Ledger
    const records: Array<RunRecord> = []
    for (const name of yield* Files.list(join(root, "runs"))) {
      if (!name.endsWith(".json")) continue
      const record = yield* Files.readJson(join(root, "runs", name))
      if (isRecord(record)) records.push(record)
    }
    // By the millisecond: names of one second end by chance.
    return records.toSorted((a, b) => (a.startedAt < b.startedAt ? 1 : a.startedAt > b.startedAt ? -1 : 0))
  }
)

/** One record by the beginning of its id; the newest where none is named. */
export const findRecord = (id: string | undefined): Effect.Effect<RunRecord, ChatlmError, Ledger> =>
  Effect.gen(function* () {
    const { root } = yield* Ledger
    const records = yield* listRecords
    const found = id === undefined ? records[0] : records.find((record) => record.id.startsWith(id))
    if (found !== undefined) return found
    return yield* Effect.fail(
      makeError(
        "INPUT_NOT_FOUND",
        id === undefined ? `there is no run in ${root}` : `there is no run ${id} in ${root}`,
        "chatlm runs lists those there are; --root says where to look",
        { root }
      )
    )
  })

export interface Collected {
  readonly removed: ReadonlyArray<string>
  readonly bytes: number
  readonly kept: number
}

/** Removes the results that the newest `keep` runs of each pipeline do not use, and abandoned work. */
export const collectGarbage = (
  keep: number,
  dryRun: boolean
): Effect.Effect<Collected, ChatlmError, Ledger> =>
  Effect.gen(function* () {
    const ledger = yield* Ledger
    // What a run is just making is not abandoned.
    if (!dryRun) yield* lock(ledger.root)
    const records = yield* listRecords
    const used = new Set<string>()
    const removed: Array<string> = []
    const counts = new Map<string, number>()
    for (const record of records) {
      const count = (counts.get(record.pipeline) ?? 0) + 1
      counts.set(record.pipeline, count)
      if (count > keep) {
        removed.push(join(ledger.root, "runs", `${record.id}.json`))
        continue
      }
      for (const { stage, key } of record.stages)
        if (key !== null) used.add(basename(ledger.folderOf(stage, key)))
    }
    let kept = 0
    for (const name of yield* Files.list(join(ledger.root, "store"))) {
      if (used.has(name)) kept += 1
      else removed.push(join(ledger.root, "store", name))
    }
    for (const name of yield* Files.list(join(ledger.root, "work")))
      removed.push(join(ledger.root, "work", name))
    let bytes = 0
    for (const path of removed) {
      bytes += yield* Files.sizeOf(path)
      if (!dryRun) yield* Files.remove(path)
    }
    return { removed, bytes, kept }
  }).pipe(Effect.scoped)
