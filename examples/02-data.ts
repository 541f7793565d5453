/**
 * Data: from raw rows to a training set, with a cleaning step of one's own between those of the core. Rows come
 * as a stream in bounded memory, so that the same lines serve for ten rows and for ten million.
 *
 *     node examples/02-data.ts [RAW…]
 */
import { mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { argv } from "node:process"

import { clean, dedup, Native, rows, split, writeRows } from "chatlm"
import type { Fields, Row } from "chatlm"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

/** What a forum's export looks like: some votes, a signature, an advertisement, a repetition. */
const sample = [
  { 问题: "番茄炒蛋要先放什么？", 回答: "先炒蛋，盛出来，再炒番茄，最后合在一起。——来自小厨房", 赞: 12 },
  { 问题: "番茄炒蛋要先放什么？", 回答: "先炒蛋，盛出来，再炒番茄，最后合在一起。", 赞: 3 },
  { 问题: "怎么让米饭更香？", 回答: "加微信领取秘方", 赞: 50 },
  { 问题: "怎么让米饭更香？", 回答: "洗净后浸泡半小时，加几滴油再煮，焖十分钟再开盖。", 赞: 8 },
  { 问题: "天空为什么是蓝色的？", 回答: "阳光里的蓝光波长短，被空气散射得最多。", 赞: 31 },
  { 问题: "天空为什么是蓝色的？", 回答: "不知道", 赞: 0 }
]

/** A step of one's own: a function from a row to its fields, or to nothing where the row falls. */
const polish = ({ fields }: Row): Fields | undefined => {
  const response = String(fields.回答).replace(/——来自.*$/, "")
  const isSpam = /加微信|扫码/.test(response)
  return isSpam || Number(fields.赞) < 1 ? undefined : { 问题: fields.问题 ?? null, 回答: response }
}

/** Raw rows to `train.parquet`, `valid.parquet` and `test.parquet` in `folder`. */
export const prepare = (inputs: ReadonlyArray<string>, folder: string) =>
  Effect.gen(function* () {
    const at = (name: string) => join(folder, name)
    const polished = rows({ inputs, columns: ["问题", "回答", "赞"] }).pipe(
      Stream.map(polish),
      Stream.filter((row) => row !== undefined)
    )
    const own = yield* writeRows(polished, { output: at("polished.parquet") })
    // The core's own rules, which also name the columns as training wants them.
    const cleaned = yield* clean({
      source: "pairs",
      purpose: "sft",
      inputs: [at("polished.parquet")],
      promptColumn: "问题",
      responseColumn: "回答",
      output: at("clean.parquet"),
      rejects: at("rejects.parquet")
    })
    const unique = yield* dedup({
      inputs: [at("clean.parquet")],
      output: at("unique.parquet")
    })
    const parts = yield* split({
      inputs: [at("unique.parquet")],
      output: folder,
      train: 0.8,
      valid: 0.1,
      test: 0.1,
      seed: 23_333
    })
    return { own: own.rows, cleaned: cleaned.kept, unique: unique.kept, parts }
  })

if (import.meta.main) {
  const folder = mkdtempSync(join(tmpdir(), "chatlm-data-"))
  const given = argv.slice(2)
  const raw = join(folder, "raw.jsonl")
  if (given.length === 0) writeFileSync(raw, sample.map((row) => JSON.stringify(row)).join("\n"))
  const told = await Effect.runPromise(
    prepare(given.length === 0 ? [raw] : given, folder).pipe(Effect.provide(Native.layer))
  )
  console.log(told, `in ${folder}`)
}

export { sample }
