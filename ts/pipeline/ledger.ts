/**
 * Results by the key of what made them. Under its root lie `store/STAGE-KEY/` (a result with its
 * `manifest.json`), `work/STAGE-KEY/` (one being made), `runs/` (a record a run) and `hashes.json` (of
 * files given from outside). A result is made in `work`, gets its manifest last and is then renamed into
 * `store`: what lies there is done, and a killed run leaves nothing that looks done.
 */
import { readFile } from "node:fs/promises"
import { join } from "node:path"

import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

import type { ChatlmError } from "../native/index.ts"
import * as Files from "./files.ts"
import type { FileEntry } from "./files.ts"
import { readManifest } from "./manifest.ts"
import type { Manifest } from "./manifest.ts"
import type { Outputs, WorkReport } from "./stage.ts"

/** Letters of the key that stand in a folder's name; the manifest has all of them. */
const shown = 16

/** How a result stands. */
export type Found =
  | { readonly state: "whole"; readonly folder: string; readonly manifest: Manifest }
  | { readonly state: "missing" }
  | { readonly state: "damaged"; readonly folder: string; readonly reason: string }

/** Where a result is being made. */
export interface Workplace {
  readonly folder: string
  readonly result: string
  readonly records: string
  readonly scratch: string
}

export interface Making {
  readonly stage: string
  readonly version: number
  readonly key: string
  readonly settings: Manifest["settings"]
  readonly inputs: Manifest["inputs"]
  readonly outputs: Outputs
}

export interface LedgerService {
  readonly root: string
  /** Looks a result up; with `full` every byte is read, otherwise sizes and times must be as remembered. */
  readonly find: (stage: string, key: string, full?: boolean) => Effect.Effect<Found, ChatlmError>
  /** A place to work in. What an earlier attempt left is gone, but for the scratch of a stage that resumes. */
  readonly begin: (stage: string, key: string, resumes: boolean) => Effect.Effect<Workplace, ChatlmError>
  /** Hashes what was made, vouches for it and puts it into the store. */
  readonly publish: (
    making: Making,
    place: Workplace,
    report: WorkReport,
    startedAt: number,
    seconds: number
  ) => Effect.Effect<Manifest, ChatlmError>
  readonly forget: (stage: string, key: string) => Effect.Effect<void, ChatlmError>
  /** The content hash of something of the user's. */
  readonly hashGiven: (path: string) => Effect.Effect<string, ChatlmError>
  readonly folderOf: (stage: string, key: string) => string
}

const nameOf = (stage: string, key: string) => `${stage}-${key.slice(0, shown)}`

/** Most memory that this process has held, as the system counts it. */
const peakRss = Effect.map(
  Files.attempt("/proc/self/status", () => readFile("/proc/self/status", "utf8").catch(() => "")),
  (status) => {
    const match = /VmHWM:\s+(\d+) kB/.exec(status)
    return match === null ? process.resourceUsage().maxRSS * 1024 : Number(match[1]) * 1024
  }
)

const make = (root: string): LedgerService => {
  const store = join(root, "store")
  const work = join(root, "work")
  const hashesFile = join(root, "hashes.json")
  const folderOf = (stage: string, key: string) => join(store, nameOf(stage, key))

  const find: LedgerService["find"] = Effect.fnUntraced(function* (stage, key, full = false) {
    const folder = folderOf(stage, key)
    const file = join(folder, "manifest.json")
    if (!(yield* Files.exists(folder))) return { state: "missing" }
    const manifest = yield* readManifest(yield* Files.readJson(file))
    if (manifest === undefined || manifest.key !== key) {
      return { state: "damaged", folder, reason: "its manifest is missing or broken" }
    }
    let touched = false
    for (const output of Object.values(manifest.outputs)) {
      const state = yield* Files.compare(join(folder, output.path), output.files, full)
      if (state.damaged !== undefined) {
        const path = join(output.path, state.damaged)
        return { state: "damaged", folder, reason: `${path} is not what was written` }
      }
      touched ||= state.touched
    }
    if (!touched) return { state: "whole", folder, manifest }
    // Copied or restored: the same bytes with other times. Remembered, so that they are not read each time.
    const renewed = yield* renew(folder, manifest)
    yield* Files.writeWhole(file, JSON.stringify(renewed, null, 2)).pipe(Effect.ignore)
    return { state: "whole", folder, manifest: renewed }
  })

  const renew = (folder: string, manifest: Manifest) =>
    Effect.gen(function* () {
      const outputs: Record<string, Manifest["outputs"][string]> = {}
      for (const [name, output] of Object.entries(manifest.outputs)) {
        const files = yield* Files.entriesOf(join(folder, output.path))
        outputs[name] = { ...output, files }
      }
      return { ...manifest, outputs }
    })

  const begin: LedgerService["begin"] = Effect.fnUntraced(function* (stage, key, resumes) {
    const folder = join(work, nameOf(stage, key))
    const place = {
      folder,
      result: join(folder, "result"),
      records: join(folder, "result", "records"),
      scratch: join(folder, "scratch")
    }
    yield* Files.remove(resumes ? place.result : folder)
    yield* Files.makeFolder(place.records)
    yield* Files.makeFolder(place.scratch)
    return place
  })

  const publish: LedgerService["publish"] = Effect.fnUntraced(
    function* (making, place, report, startedAt, seconds) {
      const outputs: Record<string, Manifest["outputs"][string]> = {}
      for (const [name, { kind, path }] of Object.entries(making.outputs)) {
        const files = yield* Files.entriesOf(join(place.result, path))
        outputs[name] = { kind, path, sha256: Files.combinedHash(files), files }
      }
      const manifest: Manifest = {
        format: 1,
        stage: making.stage,
        version: making.version,
        key: making.key,
        settings: making.settings,
        inputs: making.inputs,
        outputs,
        rows: report.rows ?? {},
        figures: report.figures ?? {},
        steps: report.steps ?? null,
        startedAt: new Date(startedAt).toISOString(),
        seconds,
        peakRssBytes: yield* peakRss
      }
      yield* Files.syncAll(place.result)
      yield* Files.writeWhole(join(place.result, "manifest.json"), JSON.stringify(manifest, null, 2))
      const folder = folderOf(making.stage, making.key)
      yield* Files.remove(folder)
      yield* Files.rename(place.result, folder)
      yield* Files.remove(place.folder)
      return manifest
    },
    // From the manifest on there is no half way back.
    Effect.uninterruptible
  )

  const hashGiven: LedgerService["hashGiven"] = Effect.fnUntraced(function* (path) {
    const stored = (yield* Files.readJson(hashesFile)) as Record<string, FileEntry> | undefined
    const known = new Map(Object.entries(stored ?? {}))
    const entries = yield* Files.entriesOf(path, known)
    let changed = false
    for (const entry of entries) {
      const file = entry.path === "" ? path : join(path, entry.path)
      changed ||= known.get(file)?.modified !== entry.modified || known.get(file)?.sha256 !== entry.sha256
      known.set(file, entry)
    }
    if (changed) yield* Files.writeWhole(hashesFile, JSON.stringify(Object.fromEntries(known), null, 2))
    return Files.combinedHash(entries)
  })

  return {
    root,
    find,
    begin,
    publish,
    forget: (stage, key) =>
      Effect.andThen(Files.remove(folderOf(stage, key)), Files.remove(join(work, nameOf(stage, key)))),
    hashGiven,
    folderOf
  }
}

export class Ledger extends Context.Service<Ledger, LedgerService>()("chatlm/pipeline/Ledger") {
  /** Results under `root`, which is made where it is missing. */
  static readonly layer = (root: string): Layer.Layer<Ledger, ChatlmError> =>
    Layer.effect(
      Ledger,
      Effect.gen(function* () {
        for (const name of ["store", "work", "runs"]) yield* Files.makeFolder(join(root, name))
        return make(root)
      })
    )
}

export const now = Clock.currentTimeMillis
