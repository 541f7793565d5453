/** The other ways to a tokenizer, and packed inputs, through the real program. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { gzipSync, zstdCompressSync } from "node:zlib"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { chatlm, folder, ok, root } from "./support.ts"

const dir = folder()
afterAll(() => dir.remove())

const POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"
const text = POEM.repeat(20)
const vocabulary = (name: string): Record<string, number> =>
  JSON.parse(readFileSync(dir.at(`${name}/tokenizer.json`), "utf8")).model.vocab

const tokenizer = (verb: string, input: string, out: string, ...more: ReadonlyArray<string>) => [
  "tokenizer",
  verb,
  "--in",
  dir.at(input),
  "--out",
  dir.at(out),
  ...more
]

beforeAll(async () => {
  writeFileSync(dir.at("poem.txt"), text)
  await ok(...tokenizer("train", "poem.txt", "poem", "--vocab-size", "60", "--min-frequency", "2"))
})

describe("ways to a tokenizer", () => {
  it("frequent words, in a memory that is given", async () => {
    const report = await ok(
      ...tokenizer("from-words", "poem.txt", "words", "--min-count", "10", "--max-memory", "2GiB")
    )
    expect(report).toMatchObject({ texts: 40, peak_rss_bytes: expect.any(Number) })
    expect(vocabulary("words")).toHaveProperty("明月")
  })

  it("a new vocabulary in an old pipeline", async () => {
    const again = ["--from", dir.at("poem"), "--vocab-size", "60", "--min-frequency", "2"]
    await ok(...tokenizer("retrain", "poem.txt", "again", ...again))
    expect(vocabulary("again")).toEqual(vocabulary("poem"))
  })

  it("a SentencePiece file, and more tokens in what came of it", async () => {
    const file = join(root, "test/golden/tokenizer/bytes.model")
    const imported = await ok("tokenizer", "import", file, "--out", dir.at("imported"))
    expect(imported).toMatchObject({ model: "bpe", added: ["<pad>"] })
    writeFileSync(dir.at("tokens.txt"), "量子力学\n老师\n\n")
    const more = ["--tokens", dir.at("tokens.txt"), "--out", dir.at("extended")]
    const extended = await ok("tokenizer", "extend", "--tokenizer", dir.at("imported"), ...more)
    expect(extended.vocab_size).toBe(imported.vocab_size + (extended as unknown as { added: number }).added)
  })

  it("a target that is there stays unless --force says otherwise", async () => {
    for (const [verb, ...more] of [
      ["from-words", "--min-count", "10"],
      ["retrain", "--from", dir.at("poem")]
    ]) {
      const command = tokenizer(verb ?? "", "poem.txt", "poem", ...more)
      const ran = await chatlm(...command)
      expect([ran.status, ran.error]).toEqual([expect.any(Number), expect.stringContaining("TARGET_EXISTS")])
    }
  })

  const nothing: Record<string, ReadonlyArray<string>> = {
    "from-words": ["--min-count", "10"],
    retrain: ["--from", dir.at("poem")],
    train: ["--model", "unigram", "--vocab-size", "400"]
  }
  for (const [verb, more] of Object.entries(nothing))
    it(`${verb}: an empty file, and too little memory, leave nothing`, async () => {
      writeFileSync(dir.at("empty.txt"), "")
      const empty = await chatlm(...tokenizer(verb, "empty.txt", "bad", ...more))
      expect(empty.status, empty.error).toBe(2)
      expect(empty.error).toContain("no text")
      const small = await chatlm(...tokenizer(verb, "poem.txt", "bad", ...more, "--max-memory", "1MiB"))
      expect(small.error).toMatch(/give --max-memory at least \d+ MiB/)
      expect(readdirSync(dir.path).filter((left) => left.includes("bad"))).toEqual([])
    })
})

describe("packed inputs", () => {
  const packings = { gz: gzipSync, zst: zstdCompressSync } as const
  const layouts: Record<string, string> = {
    txt: text,
    jsonl: text.replaceAll(/.+/g, (line) => JSON.stringify({ text: line })),
    json: JSON.stringify(
      text
        .trim()
        .split("\n")
        .map((line) => ({ text: line }))
    ),
    csv: `text\n${text}`
  }
  for (const [packing, pack] of Object.entries(packings))
    it(`${packing} of each format trains the same tokenizer`, async () => {
      for (const [layout, content] of Object.entries(layouts)) {
        const name = `poem.${layout}.${packing}`
        writeFileSync(dir.at(name), pack(Buffer.from(content)))
        const out = `${layout}-${packing}`
        await ok(...tokenizer("train", name, out, "--vocab-size", "60", "--min-frequency", "2"))
        expect(vocabulary(out), name).toEqual(vocabulary("poem"))
      }
    })

  it("a file that is cut short is named, and nothing is left", async () => {
    const packed = gzipSync(Buffer.from(text))
    writeFileSync(dir.at("short.txt.gz"), packed.subarray(0, packed.length - 5))
    const ran = await chatlm(...tokenizer("train", "short.txt.gz", "bad"))
    expect(ran.status, ran.error).toBe(2)
    expect(ran.error).toMatch(/INPUT_FORMAT.*short\.txt\.gz is cut short/)
    expect(readdirSync(dir.path).filter((left) => left.includes("bad"))).toEqual([])
  })

  it("other verbs read them too", async () => {
    const pairs = '{"prompt":"你好","response":"你好啊"}\n{"prompt":"再见","response":"明天见"}\n'
    writeFileSync(dir.at("pairs.jsonl.zst"), zstdCompressSync(Buffer.from(pairs)))
    expect(await ok("inspect", dir.at("pairs.jsonl.zst"))).toMatchObject({ rows: 2 })
    await ok("corpus", "--in", dir.at("pairs.jsonl.zst"), "--out", dir.at("pairs.txt"))
    expect(readFileSync(dir.at("pairs.txt"), "utf8")).toContain("再见[SEP]明天见[SEP]")
  })
})
