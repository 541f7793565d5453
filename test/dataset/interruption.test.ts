/** A fiber that is interrupted in the middle of native work: that stops soon and leaves no file behind. */
import { mkdtempSync, readdirSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { describe, expect, it } from "vitest"

import { clean, corpus, dedup, merge, split } from "../../ts/index.ts"
import { Native, ProgressReporter } from "../../ts/native/index.ts"

const folder = mkdtempSync(join(tmpdir(), "chatlm-interrupted-"))
const input = join(folder, "rows.jsonl")
const count = 200_000
const digits = "零一二三四五六七八九"
const chinese = (n: number) => String(n * 7919).replaceAll(/\d/g, (digit) => digits[Number(digit)] ?? "")
writeFileSync(
  input,
  Array.from({ length: count }, (_, n) =>
    JSON.stringify({
      prompt: `第${chinese(n)}个问题是什么？`,
      response: `答案是${chinese(n + 1)}，因为${chinese(n + 2)}。`
    })
  ).join("\n")
)

const inputs = [input]
const common = { inputs }
const calls: Readonly<Record<string, (output: string) => Effect.Effect<unknown, unknown, Native>>> = {
  clean: (output) =>
    clean({
      ...common,
      output,
      source: "pairs",
      purpose: "pretrain",
      promptColumn: "prompt",
      responseColumn: "response",
      rejects: `${output}.rejects.parquet`
    }),
  dedup: (output) => dedup({ ...common, output, clusters: `${output}.clusters.parquet` }),
  merge: (output) => merge({ ...common, output }),
  corpus: (output) => corpus({ ...common, output: output.replace("parquet", "txt") }),
  split: (output) => split({ ...common, output })
}

describe("an interrupted fiber", () => {
  for (const [name, call] of Object.entries(calls)) {
    for (const after of [0, 1]) {
      it(`${name}, after ${after} reports of progress`, async () => {
        const place = mkdtempSync(join(folder, `${name}-`))
        let reports = 0
        const fiber = Effect.runFork(
          call(join(place, "out.parquet")).pipe(
            Effect.provideService(ProgressReporter, () => void (reports += 1)),
            Effect.provide(Native.layer)
          )
        )
        let ended = false
        fiber.addObserver(() => void (ended = true))
        while (reports < after && !ended) await new Promise((done) => setTimeout(done, 1))
        expect(ended).toBe(false)
        const began = performance.now()
        const exit = await Effect.runPromise(
          Effect.exit(Fiber.interrupt(fiber).pipe(Effect.andThen(Fiber.await(fiber))))
        )
        expect(performance.now() - began).toBeLessThan(1500)
        expect(exit._tag).toBe("Success")
        // The folder of a split may stay; what would lie in it does not. A dedup keeps what it goes on from.
        const left = readdirSync(place, { recursive: true, withFileTypes: true })
        expect(left.filter((one) => one.isFile() && !one.parentPath.endsWith(".dedup"))).toEqual([])
      })
    }
  }
})
