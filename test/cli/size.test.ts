import { describe, expect, it } from "vitest"

import { parseSize } from "../../ts/cli/core/size.ts"
import { memoryBorder } from "../../ts/native/index.ts"
import type { DedupOptions } from "../../ts/native/index.ts"
import { chatlm } from "./support.ts"

describe("sizes of memory", () => {
  it("are read as they are written", () => {
    const sizes = ["1GiB", "800MiB", "1.5 gib", "2GB", "4096", "64k"].map(parseSize)
    expect(sizes).toEqual([2 ** 30, 800 * 2 ** 20, 1.5 * 2 ** 30, 2e9, 4096, 64 * 1024])
    for (const wrong of ["", "much", "GiB", "-1GiB", "1 GiBs", "0", "1e9"]) {
      expect(parseSize(wrong), wrong).toBeUndefined()
    }
  })

  it("reach the core as bytes, and what is no size is wrong usage", async () => {
    let seen: DedupOptions | undefined
    const dedup = (size: string) =>
      chatlm(["dedup", "--in", "a", "--out", "b", "--against", "c", "d", "--max-memory", size], {
        border: {
          dedup: async (options) => {
            seen = options
            return memoryBorder().dedup(options)
          }
        }
      })
    expect((await dedup("1GiB")).status).toBe(0)
    expect(seen).toMatchObject({ maxMemory: 2 ** 30, against: ["c", "d"] })
    const wrong = await dedup("huge")
    expect(wrong.status).toBe(1)
    expect(wrong.error).toContain("huge")
  })
})
