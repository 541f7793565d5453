/** A hub for a test file, and fetches against it with caches of their own. */
import { mkdtempSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import { afterAll, beforeAll, beforeEach } from "vitest"

import { fetchSettings, FetchSettings, fetchSnapshot } from "../../ts/fetch/fetch.ts"
import type { FetchOptions } from "../../ts/fetch/fetch.ts"
import { Native, ProgressReporter } from "../../ts/native/index.ts"
import type { Progress } from "../../ts/native/index.ts"
import { TestHub } from "./hub.ts"

/** A hub that is there for the tests of a file, empty before each. */
export const useHub = (): TestHub => {
  const hub = new TestHub()
  beforeAll(() => hub.start())
  beforeEach(() => hub.reset())
  afterAll(() => hub.stop())
  return hub
}

export const newFolder = () => mkdtempSync(join(tmpdir(), "chatlm-fetch-"))

export const settingsFor = (hub: TestHub, folder: string, env: Record<string, string> = {}) => ({
  ...fetchSettings({
    HOME: folder,
    HF_ENDPOINT: hub.address,
    MODELSCOPE_ENDPOINT: hub.address,
    HF_HUB_CACHE: join(folder, "hub"),
    ...env
  }),
  firstDelay: 5,
  patience: 1000
})

export const fetchEffect = (
  hub: TestHub,
  folder: string,
  options: FetchOptions,
  env: Record<string, string> = {},
  progress: Array<Progress> = []
) =>
  fetchSnapshot(options).pipe(
    Effect.provideService(FetchSettings, settingsFor(hub, folder, env)),
    Effect.provideService(ProgressReporter, (one) => void progress.push(one)),
    Effect.provide(Native.testLayer())
  )

export const fetchFrom = (...args: Parameters<typeof fetchEffect>) => Effect.runPromise(fetchEffect(...args))

/** The error of a fetch that must fail. */
export const refusal = (...args: Parameters<typeof fetchEffect>) =>
  Effect.runPromise(Effect.flip(fetchEffect(...args)))

/** Bytes that do not repeat. */
export const noise = (length: number, seed = 1): Buffer => {
  const bytes = Buffer.alloc(length)
  let state = seed
  for (let n = 0; n < length; n += 1) {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31
    bytes[n] = state >> 16
  }
  return bytes
}
