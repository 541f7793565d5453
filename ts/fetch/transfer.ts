/**
 * One file from a hub to its place: into `PLACE.incomplete`, from where that stopped the last time, and to
 * its place only once its hash is right.
 */
import { createHash } from "node:crypto"
import type { Hash } from "node:crypto"
import { createReadStream } from "node:fs"
import * as fs from "node:fs/promises"
import { dirname } from "node:path"

import * as Effect from "effect/Effect"

import { attempt, fileError, makeError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import { isFailure } from "./failure.ts"
import { open, persistently, working } from "./http.ts"
import type { Failure } from "./failure.ts"
import type { Listed } from "./hub.ts"
import type { FetchSettings } from "./settings.ts"

/** Where a transfer goes until its hash is right. */
export const incompletePath = (place: string): string => `${place}.incomplete`

const hashOf = ({ kind, size }: Listed): Hash =>
  // Git hashes a file behind a header of its size.
  kind === "sha256" ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`)

const feed = async (hash: Hash, path: string, signal: AbortSignal): Promise<Hash> => {
  for await (const chunk of createReadStream(path, { signal, highWaterMark: 1 << 20 }))
    hash.update(chunk as Buffer)
  return hash
}

/** Whether a file on disk has the content that was listed. */
export const isWhole = (path: string, file: Listed): Effect.Effect<boolean, ChatlmError> =>
  working(
    async (signal) => {
      const found = await fs.stat(path)
      return found.size === file.size && (await feed(hashOf(file), path, signal)).digest("hex") === file.hash
    },
    (error) => fileError(error, path)
  )

export interface Transfer {
  readonly url: string
  readonly credentials: Readonly<Record<string, string>>
  readonly file: Listed
  readonly place: string
  /** What the user asked for, for messages. */
  readonly what: string
  /** Told of bytes that have come, and of those (below zero) that must come again. */
  readonly onBytes: (bytes: number) => void
}

/** Content that does not hash to what the listing says. */
const wrong = ({ file, what, url }: Transfer) =>
  makeError(
    "INPUT_FORMAT",
    `${what}: ${file.path} arrived with another content than its hash ${file.hash} promises`,
    "run this again; if it stays so, the server or something on the way to it changes the file",
    { file: file.path, url }
  )

/** Where the answer begins: asked for `from`, a server may send the rest, all of it, or something else. */
const beginsAt = (response: Response, from: number): number | undefined => {
  if (response.status !== 206) return 0
  const start = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "")?.[1]
  return Number(start) === from ? from : undefined
}

/** One connection's worth: appends what comes; resolves once all is there. */
const once = async (
  { url, credentials, file, place, onBytes }: Transfer,
  settings: FetchSettings,
  state: { hash: Hash | undefined; size: number; counted: number },
  signal: AbortSignal
): Promise<void> => {
  const path = incompletePath(place)
  const handle = await fs.open(path, "a+")
  const restart = async () => {
    await handle.truncate(0)
    state.hash = hashOf(file)
    state.size = 0
    onBytes(-state.counted)
    state.counted = 0
  }
  try {
    if (state.hash === undefined) {
      state.size = (await handle.stat()).size
      state.hash = await feed(hashOf(file), path, signal)
      onBytes(state.size)
      state.counted = state.size
    }
    if (state.size > file.size) await restart()
    if (state.size === file.size) return
    const headers: Record<string, string> = state.size > 0 ? { range: `bytes=${state.size}-` } : {}
    const { response, chunks } = await open(
      url,
      { headers, credentials, patience: settings.patience },
      signal
    )
    const begins = beginsAt(response, state.size)
    if (begins !== state.size) await restart()
    if (begins === undefined) throw { ...brokenRange(url), transient: true }
    for await (const chunk of chunks) {
      if (state.size + chunk.length > file.size) {
        // More than there is: what stands there cannot be right.
        await restart()
        throw { ...brokenRange(url), message: "more bytes came than the file has" }
      }
      await handle.appendFile(chunk)
      state.hash.update(chunk)
      state.size += chunk.length
      state.counted += chunk.length
      onBytes(chunk.length)
    }
    if (state.size < file.size)
      throw { ...brokenRange(url), message: "the connection ended early", received: 1 }
    await handle.sync()
  } catch (error) {
    // The server says that there is nothing behind what we have: what we have is not the file.
    if (isFailure(error) && error.status === 416) {
      await restart()
      throw { ...error, transient: true }
    }
    throw error
  } finally {
    await handle.close()
  }
}

const brokenRange = (url: string): Failure => ({
  _tag: "Failure",
  status: undefined,
  code: undefined,
  message: "another range came than was asked for",
  url,
  transient: true,
  wait: undefined,
  received: 0
})

/**
 * Brings a file to its place. What has arrived is kept when it fails or is interrupted, and gone on from; a
 * wrong hash throws it away and starts over once, since what was there before may have been damaged.
 */
export const transfer = (
  task: Transfer,
  settings: FetchSettings
): Effect.Effect<void, Failure | ChatlmError> =>
  Effect.gen(function* () {
    const { file, place } = task
    const path = incompletePath(place)
    yield* attempt(path, async () => void (await fs.mkdir(dirname(path), { recursive: true })))
    for (let round = 0; ; round += 1) {
      const state: Parameters<typeof once>[2] = { hash: undefined, size: 0, counted: 0 }
      yield* persistently(
        working(
          (signal) => once(task, settings, state, signal),
          (error) => (isFailure(error) ? error : fileError(error, path))
        ),
        settings
      )
      if (state.hash?.digest("hex") === file.hash) break
      yield* attempt(path, () => fs.rm(path))
      task.onBytes(-state.counted)
      if (round === 1) return yield* Effect.fail(wrong(task))
    }
    yield* attempt(place, () => fs.rename(path, place))
  })
