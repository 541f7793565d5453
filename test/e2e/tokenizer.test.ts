/** Tokenizers through the real program: input that cannot be trained on, and answers that a slow reader takes. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { pathToFileURL } from "node:url"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { chatlm, chatlmUnder, folder, ok, root, start, startChatlm } from "./support.ts"

const dir = folder()
afterAll(() => dir.remove())

const train = (input: string, out: string, ...more: ReadonlyArray<string>) => [
  "tokenizer",
  "train",
  "--in",
  dir.at(input),
  "--out",
  dir.at(out),
  "--min-frequency",
  "2",
  ...more
]

/** Text of many different words: a lot for the trainer to hold. */
const various = (megabytes: number) => {
  let state = 1
  const next = (bound: number) => {
    state = (state * 48_271) % 0x7f_ff_ff_ff
    return state % bound
  }
  const line = () =>
    Array.from({ length: 300 }, () =>
      next(12) === 0 ? "，" : String.fromCodePoint(0x4e_00 + next(2000))
    ).join("")
  return Array.from({ length: megabytes * 1100 }, line).join("\n")
}

describe("input that cannot be trained on is told, and nothing is left behind", () => {
  const cases = {
    "an empty file": { text: "", status: 2, says: ["INPUT_FORMAT", "no text to train a tokenizer on"] },
    "blank lines": { text: "\n\n\n", status: 2, says: ["INPUT_FORMAT", "no text"] },
    "rows without text": {
      name: "numbers.jsonl",
      text: '{"a":1}\n{"a":2}\n',
      status: 2,
      says: ["INPUT_FORMAT", "no text"]
    },
    "bytes that are no text in UTF-8": {
      text: Buffer.concat([
        Buffer.from("床前明月光\n".repeat(100)),
        Buffer.from([0xe5, 0x28, 0xff, 0xc0, 0x0a])
      ]),
      more: ["--encoding", "utf-8"],
      status: 2,
      says: ["INPUT_FORMAT", "bytes-that-are-no-text-in-UTF-8.txt", "no text in its encoding", "--encoding"]
    },
    "a vocabulary smaller than the alphabet": {
      text: "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n".repeat(10),
      more: ["--vocab-size", "20"],
      status: 1,
      says: ["USAGE", "20 is too small", "20 different characters", "--vocab-size at least 27", "byte-bpe"]
    },
    "a vocabulary smaller than the bytes": {
      text: "abc\n",
      more: ["--vocab-size", "200", "--model", "byte-bpe"],
      status: 1,
      says: ["USAGE", "200 is too small", "263"]
    }
  } satisfies Record<
    string,
    { text: string | Buffer; name?: string; more?: Array<string>; status: number; says: Array<string> }
  >

  for (const [name, { text, status, says, ...rest }] of Object.entries(cases)) {
    it(name, async () => {
      const file = "name" in rest ? rest.name : `${name.replaceAll(" ", "-")}.txt`
      writeFileSync(dir.at(file), text)
      const ran = await chatlm(...train(file, "bad", ...("more" in rest ? rest.more : [])))
      expect(ran.status, ran.error).toBe(status)
      for (const part of says) expect(ran.error).toContain(part)
      expect(ran.error.trim().split("\n").at(-1)).toMatch(/^help: ./)
      expect(readdirSync(dir.path).filter((left) => left.includes("bad"))).toEqual([])
    })
  }

  it("a full disk, while words are spilled and while the folder is written", async () => {
    writeFileSync(dir.at("various.txt"), various(32))
    const options = {
      inputs: [dir.at("various.txt")],
      output: dir.at("bad"),
      model: "char-bpe",
      vocabSize: 4000,
      minFrequency: 2,
      maxMemory: 220 * 2 ** 20,
      force: false
    }
    const border = pathToFileURL(`${root}/index.js`).href
    const script = `(await import(${JSON.stringify(border)})).trainTokenizer(${JSON.stringify(options)})
      .catch((error) => console.log(error.message))`
    const node = (before: string) =>
      start("bash", [
        "-c",
        `${before} exec "$@"`,
        "bash",
        process.execPath,
        "--input-type=module",
        "-e",
        script
      ]).ran
    const spilling = await node("ulimit -f 64;")
    expect(JSON.parse(spilling.out), spilling.error).toMatchObject({
      code: "DISK_FULL",
      message: expect.stringContaining("words")
    })
    const left = () => readdirSync(dir.path).filter((name) => name.includes("bad"))
    expect(left()).toEqual([])
    writeFileSync(dir.at("short.txt"), "床前明月光，疑是地上霜。\n".repeat(10))
    const ran = await chatlmUnder("ulimit -f 1;", ...train("short.txt", "bad", "--model", "byte-bpe"))
    expect(ran.status, ran.error).toBe(3)
    expect(ran.error).toContain("error[DISK_FULL]")
    // What was counted waits for the same command, which goes on with room.
    expect(left().filter((name) => name !== ".bad.tokenizer")).toEqual([])
    await ok(...train("short.txt", "bad", "--model", "byte-bpe"))
    expect(left()).toEqual(["bad"])
  })
})

describe("input that looks hard", () => {
  it("one character ten million times is one word", async () => {
    writeFileSync(dir.at("one.txt"), "好".repeat(10_000_000))
    const report = await ok(...train("one.txt", "one", "--vocab-size", "40"))
    expect(report.vocab_size).toBeLessThanOrEqual(42)
    const { model } = JSON.parse(readFileSync(dir.at("one/tokenizer.json"), "utf8"))
    expect(model.merges.slice(0, 2)).toEqual([
      ["好", "好"],
      ["好好", "好好"]
    ])
  })
})

describe("a trained tokenizer", () => {
  beforeAll(async () => {
    writeFileSync(dir.at("poem.txt"), "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n".repeat(20))
    await ok(...train("poem.txt", "poem", "--vocab-size", "60"))
  })

  it("encodes every line, though the reader is slow", async () => {
    const { child, ran } = startChatlm("tokenizer", "encode", "--tokenizer", dir.at("poem"), "--json")
    child.stdout?.pause()
    setTimeout(() => child.stdout?.resume(), 2000)
    const line = "床前明月光，疑是地上霜。"
    child.stdin?.end(`${line}\n`.repeat(20_000))
    const { status, out } = await ran
    expect(status).toBe(0)
    const answers = out.trimEnd().split("\n")
    expect(answers).toHaveLength(20_000)
    expect(answers.at(-1)).toBe(answers[0])
  })

  it("is reported on, as JSON and as a page", async () => {
    const ran = await chatlm(
      "tokenizer",
      "report",
      "--tokenizer",
      dir.at("poem"),
      "--against",
      dir.at("poem"),
      "--in",
      dir.at("poem.txt"),
      "--out",
      dir.at("report.html"),
      "--json"
    )
    const { rows, characters, tokenizers } = JSON.parse(ran.out)
    expect([rows, characters]).toEqual([40, 480])
    expect(tokenizers).toHaveLength(2)
    expect(tokenizers[0]).toMatchObject({ unknown: { tokens: 0 }, round_trip: { texts: 40, failed: 0 } })
    expect(tokenizers[1]).toEqual(tokenizers[0])
    expect(existsSync(dir.at("report.html"))).toBe(true)
  })

  it("is measured", async () => {
    const ran = await chatlm(
      "bench",
      "encode",
      "--tokenizer",
      dir.at("poem"),
      "--in",
      dir.at("poem.txt"),
      "--rounds",
      "1",
      "--json"
    )
    const report = JSON.parse(ran.out)
    expect(report.texts).toBe(40)
    expect(report.tokens_per_second).toBeGreaterThan(0)
    expect(report.characters_per_second / report.tokens_per_second).toBeCloseTo(480 / report.tokens, 6)
  })
})
