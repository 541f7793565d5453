/** Cleaning through the real program: encodings, the funnel, the report, what `--keep-going` keeps. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import { afterAll, expect, it } from "vitest"

import { chatlm } from "./support.ts"

const folder = mkdtempSync(join(tmpdir(), "chatlm-clean-"))
const at = (name: string) => join(folder, name)
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const header = "department,title,ask,answer"
const rows = [
  '内科,高血压可以喝茶吗,怎么喝好,"可以喝淡茶，不宜太浓。\n每天两三杯为宜。"',
  '外科,摔了一跤,"没有合上的引号,要冷敷并且抬高患肢两天以后再热敷',
  "儿科,孩子咳嗽,两天了,多喝水"
]
const clean = (source: string, input: string, out: string, ...rest: ReadonlyArray<string>) =>
  chatlm("clean", "--source", source, "--in", at(input), "--out", at(out), "--json", ...rest)

it("reads UTF-16 as published, mends csv and reports", async () => {
  writeFileSync(at("medical.csv"), `\uFEFF${[header, ...rows].join("\n")}\n`, "utf16le")
  const ran = await clean("medical-dialogue", "medical.csv", "out.jsonl", "--report", at("report.json"))
  expect(ran.status, ran.error).toBe(0)
  const value = JSON.parse(ran.out)
  expect(Object.keys(value)).toEqual(["read", "kept", "dropped", "broken", "undecodable", "seconds"])
  expect(value).toMatchObject({ read: 3, kept: 2, dropped: { "short-response": 1 }, undecodable: 0 })
  expect(readFileSync(at("out.jsonl"), "utf8").split("\n")[1]).toBe(
    '{"prompt":"摔了一跤\\"没有合上的引号","response":"要冷敷并且抬高患肢两天以后再热敷"}'
  )
  const report = JSON.parse(readFileSync(at("report.json"), "utf8"))
  expect(report).toMatchObject({ kind: "clean", version: 1, mended: 1, rows: { read: 3, kept: 2 } })
  expect(report.rejects).toEqual([
    {
      rule: "short-response",
      file: at("medical.csv"),
      row: 2,
      fields: { department: "儿科", title: "孩子咳嗽", ask: "两天了", answer: "多喝水" }
    }
  ])
})

it("counts broken rows and bytes that are no text", async () => {
  const line = '{"title": "问题在此", "answer": "这是一个足够长的回答，留得下来。"}\n'
  const bytes = Buffer.concat([
    Buffer.from(line),
    Buffer.from("no json\n"),
    Buffer.from(line.replace("长的", "X")).map((byte) => (byte === 0x58 ? 0xff : byte)),
    Buffer.from(line)
  ])
  writeFileSync(at("baike.json"), bytes)
  const stopped = await clean("baike-qa2019", "baike.json", "kept.parquet")
  expect(stopped.status).toBe(2)
  expect(JSON.parse(stopped.out).error).toMatchObject({ code: "INPUT_ROW", context: { row: 1 } })
  const ran = await clean("baike-qa2019", "baike.json", "kept.parquet", "--keep-going", "--threads", "1")
  expect(ran.status, ran.error).toBe(0)
  expect(JSON.parse(ran.out)).toMatchObject({ read: 4, kept: 2, broken: 1, undecodable: 1 })
})

it("refuses what does not exist", async () => {
  for (const [args, help] of [
    [["--source", "belle", "--for", "dpo"], "chatlm reject"],
    [["--source", "sharegpt", "--compat"], "leave out --compat"],
    [["--source", "baidu"], "baike-qa2019"]
  ] as const) {
    const ran = await chatlm("clean", ...args, "--in", at("baike.json"), "--out", at("no.parquet"))
    expect(ran.status).toBe(1)
    expect(ran.error).toContain(help)
  }
})
