/** Rows as streams over the real core: order, back-pressure, closing, errors, tables whole or not at all. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"

import { makeError, rows, writeRows } from "../../ts/index.ts"
import type { Fields, RowsInput } from "../../ts/index.ts"
import { Native } from "../../ts/native/index.ts"
import type { Border, ChatlmError, RowReader } from "../../ts/native/index.ts"

const newFolder = () => mkdtempSync(join(tmpdir(), "chatlm-rows-"))
const run = <A, E>(effect: Effect.Effect<A, E, Native>) =>
  Effect.runPromise(effect.pipe(Effect.provide(Native.layer)))
const write = (folder: string, name: string, text: string) => {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}
const numbered = (count: number) =>
  Array.from({ length: count }, (_, n) => `${JSON.stringify({ prompt: `问${n}`, n })}\n`).join("")
const fieldsOf = (input: RowsInput) => rows(input).pipe(Stream.map(({ fields }) => fields))

describe("rows", () => {
  it("come in order from files of any kind, each with its place", async () => {
    const folder = newFolder()
    const inputs = [
      write(folder, "a.jsonl", '{"prompt":"一","n":1}\n{"prompt":"二","n":null}\n'),
      write(folder, "b.csv", "prompt,n\n三,3\n")
    ]
    const found = await run(Stream.runCollect(rows({ inputs })))
    expect(found).toEqual([
      { file: inputs[0], row: 0, fields: { prompt: "一", n: 1 } },
      { file: inputs[0], row: 1, fields: { prompt: "二", n: null } },
      { file: inputs[1], row: 2, fields: { prompt: "三", n: "3" } }
    ])
  })

  it("more than a batch of them, through a table and back", async () => {
    const folder = newFolder()
    const input = write(folder, "a.jsonl", numbered(5000))
    const output = join(folder, "b.parquet")
    expect(await run(writeRows(fieldsOf({ inputs: [input] }), { output }))).toEqual({ rows: 5000 })
    const back = await run(Stream.runCollect(fieldsOf({ inputs: [output], columns: ["n"] })))
    expect(back).toHaveLength(5000)
    expect(back.at(-1)).toEqual({ n: 4999 })
  })

  it("a broken row is named, or passed over where that is asked for", async () => {
    const input = write(newFolder(), "a.jsonl", '{"a":1}\nbroken\n{"a":2}\n')
    const seen: Array<Fields> = []
    const reading = fieldsOf({ inputs: [input] }).pipe(
      Stream.runForEach((one) => Effect.sync(() => seen.push(one)))
    )
    expect(await run(Effect.flip(reading))).toMatchObject({
      code: "INPUT_ROW",
      context: { file: input, row: 1 }
    })
    expect(await run(Stream.runCollect(fieldsOf({ inputs: [input], keepGoing: true })))).toEqual([
      { a: 1 },
      { a: 2 }
    ])
  })

  it("a column that is not there is named", async () => {
    const input = write(newFolder(), "a.jsonl", '{"a":1}\n')
    const error = await run(Effect.flip(Stream.runCollect(rows({ inputs: [input], columns: ["b"] }))))
    expect(error).toMatchObject({
      code: "INPUT_ROW",
      context: { field: "b" },
      message: expect.stringContaining("it has a")
    })
  })

  it("are read no further than the consumer goes, and closed when it stops", async () => {
    const calls: Array<string> = []
    class Reader implements RowReader {
      private row = 0
      async next(count: number): Promise<string> {
        calls.push("next")
        await new Promise((done) => setImmediate(done))
        return JSON.stringify(
          Array.from({ length: count }, () => ({ file: "f", row: this.row++, fields: {} }))
        )
      }
      close(): void {
        calls.push("close")
      }
    }
    const border: Partial<Border> = { RowReader: { open: () => new Reader() } }
    const slow = rows({ inputs: ["f"] }).pipe(
      Stream.tap(() => Effect.sleep("1 millis")),
      Stream.take(30),
      Stream.runCount
    )
    expect(await Effect.runPromise(slow.pipe(Effect.provide(Native.testLayer(border))))).toBe(30)
    expect(calls.at(-1)).toBe("close")
    // One batch at work, one waiting, one on its way.
    expect(calls.filter((call) => call === "next").length).toBeLessThanOrEqual(3)
  })

  it("an interruption closes them within a moment, even where standard input never comes", async () => {
    const folder = newFolder()
    const input = write(folder, "a.jsonl", numbered(300_000))
    let count = 0
    const fiber = Effect.runFork(
      fieldsOf({ inputs: [input] }).pipe(
        Stream.runForEach(() => Effect.sync(() => void (count += 1))),
        Effect.provide(Native.layer)
      )
    )
    while (count === 0) await new Promise((done) => setTimeout(done, 1))
    const began = performance.now()
    await Effect.runPromise(Fiber.interrupt(fiber))
    expect(performance.now() - began).toBeLessThan(500)
    const before = count
    await new Promise((done) => setTimeout(done, 50))
    expect(count).toBe(before)
  })
})

describe("writing rows", () => {
  const endless = Stream.fromIterable(
    (function* () {
      for (let n = 0; ; n += 1) yield { n }
    })()
  )

  it("a failure of the stream leaves nothing behind", async () => {
    const folder = newFolder()
    const failing: Stream.Stream<Fields, ChatlmError> = Stream.concat(
      Stream.fromIterable(Array.from({ length: 3000 }, (_, n) => ({ n }))),
      Stream.fail(makeError("INPUT_ROW", "no", "no"))
    )
    const error = await run(Effect.flip(writeRows(failing, { output: join(folder, "a.jsonl") })))
    expect(error).toMatchObject({ code: "INPUT_ROW", message: "no" })
    expect(readdirSync(folder)).toEqual([])
  })

  it("an interruption leaves nothing behind", async () => {
    const folder = newFolder()
    const fiber = Effect.runFork(
      writeRows(endless, { output: join(folder, "a.parquet") }).pipe(Effect.provide(Native.layer))
    )
    while (readdirSync(folder).length === 0) await new Promise((done) => setTimeout(done, 1))
    const began = performance.now()
    await Effect.runPromise(Fiber.interrupt(fiber))
    expect(performance.now() - began).toBeLessThan(1000)
    expect(readdirSync(folder)).toEqual([])
  })

  it("a value that does not fit is named with its row and field", async () => {
    const folder = newFolder()
    const some = Stream.fromIterable<Fields>([{ a: 1 }, { a: "x" }])
    const columns = [{ name: "a", kind: "int64" }]
    const error = await run(Effect.flip(writeRows(some, { output: join(folder, "a.parquet"), columns })))
    expect(error).toMatchObject({ code: "INPUT_ROW", context: { row: 1, field: "a" } })
    const kind = await run(
      Effect.flip(
        writeRows(some, { output: join(folder, "a.parquet"), columns: [{ name: "a", kind: "date" }] })
      )
    )
    expect(kind).toMatchObject({ code: "USAGE" })
  })

  it("replaces nothing unasked, and no rows make an empty table", async () => {
    const folder = newFolder()
    const output = write(folder, "a.jsonl", "old")
    const error = await run(Effect.flip(writeRows(endless, { output })))
    expect(error).toMatchObject({ code: "TARGET_EXISTS" })
    expect(await run(writeRows(Stream.empty, { output, force: true }))).toEqual({ rows: 0 })
    expect(readFileSync(output, "utf8")).toBe("")
    const empty = join(folder, "b.parquet")
    await run(writeRows(Stream.empty, { output: empty, columns: [{ name: "a", kind: "text" }] }))
    expect(existsSync(empty)).toBe(true)
  })
})
