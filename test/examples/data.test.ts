import { mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import { Native, rows } from "chatlm"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { expect, it } from "vitest"

import { prepare, sample } from "../../examples/02-data.ts"

it("examples/02-data.ts makes a training set of the sample", async () => {
  const folder = mkdtempSync(join(tmpdir(), "chatlm-example-"))
  const raw = join(folder, "raw.jsonl")
  writeFileSync(raw, sample.map((row) => JSON.stringify(row)).join("\n"))
  const told = await Effect.runPromise(prepare([raw], folder).pipe(Effect.provide(Native.layer)))
  // Spam and a row without votes fall by the own step, the repetition without its signature by dedup.
  expect(told).toMatchObject({ own: 4, cleaned: 4, unique: 3, parts: { rows: 3 } })
  const parts = ["train", "valid", "test"].map((part) => join(folder, `${part}.parquet`))
  const found = await Effect.runPromise(
    rows({ inputs: parts }).pipe(
      Stream.map(({ fields }) => fields.response),
      Stream.runCollect,
      Effect.provide(Native.layer)
    )
  )
  expect(found.toSorted()).toEqual([sample[1]?.回答, sample[3]?.回答, sample[4]?.回答].toSorted())
})
