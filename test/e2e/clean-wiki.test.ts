/** Wikipedia's dumps through the real program: packed or not, in folders, cut short, interrupted. */
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"

import { afterAll, describe, expect, it } from "vitest"

import { chatlm, folder, root, startChatlm } from "./support.ts"

const dir = folder()
afterAll(() => dir.remove())

/** A dump of three pages, two of them articles; its second form is packed as two streams. */
const own = join(root, "fuzz", "seeds", "xml", "own.xml")
const clean = (input: string, out: string, ...rest: ReadonlyArray<string>) =>
  chatlm("clean", "--source", "zhwiki", "--in", dir.at(input), "--out", dir.at(out), "--json", ...rest)
const responses = (out: string) =>
  readFileSync(dir.at(out), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line).response)
const articles = ["数学是学科，源于计数与度量。", "A&B 是一间公司，成立于 1999 年。"]

describe("a dump", () => {
  it("gives the same rows packed or not, and is found in a folder", async () => {
    mkdirSync(dir.at("dumps"))
    copyFileSync(own, dir.at("dumps", "a.xml"))
    copyFileSync(`${own}.bz2`, dir.at("dumps", "b.xml.bz2"))
    writeFileSync(dir.at("dumps", "b-index.txt.bz2"), "no dump")
    for (const [input, times] of [
      ["dumps/a.xml", 1],
      ["dumps/b.xml.bz2", 1],
      ["dumps", 2]
    ] as const) {
      const ran = await clean(input, "rows.jsonl", "--force")
      expect(ran.status, ran.error).toBe(0)
      expect(JSON.parse(ran.out)).toMatchObject({
        read: 3 * times,
        kept: 2 * times,
        dropped: { redirect: times },
        broken: 0
      })
      expect(responses("rows.jsonl")).toEqual(times === 1 ? articles : [...articles, ...articles])
    }
  })

  it("that was cut short is named; --keep-going keeps what came before", async () => {
    const packed = readFileSync(`${own}.bz2`)
    writeFileSync(dir.at("cut.xml.bz2"), packed.subarray(0, packed.length - 20))
    const stopped = await clean("cut.xml.bz2", "cut.jsonl")
    expect(stopped.status).toBe(2)
    const { error } = JSON.parse(stopped.out)
    expect(error).toMatchObject({ code: "INPUT_FORMAT", context: { file: dir.at("cut.xml.bz2"), row: 1 } })
    expect(error.message).toContain("cannot be read")
    expect(error.help).toContain("--keep-going")
    expect(existsSync(dir.at("cut.jsonl"))).toBe(false)
    const ran = await clean("cut.xml.bz2", "cut.jsonl", "--keep-going")
    expect(ran.status, ran.error).toBe(0)
    expect(JSON.parse(ran.out)).toMatchObject({ read: 2, kept: 1, broken: 1 })
    expect(responses("cut.jsonl")).toEqual(articles.slice(0, 1))
  })
})

it("an interrupted cleaning leaves nothing half done", async () => {
  const xml = readFileSync(own, "utf8")
  const [head, ...pages] = xml.split(/(?=<page>)/)
  const page = pages[0] ?? ""
  const text = page.replace("'''數學'''", "'''數學'''是研究數量、結構、變化的學科。\n\n".repeat(400))
  mkdirSync(dir.at("work"))
  writeFileSync(dir.at("large.xml"), `${head}${text.repeat(3000)}</mediawiki>`)
  const out = dir.at("work", "rows.jsonl")
  const { child, ran } = startChatlm("clean", "--source", "zhwiki", "--in", dir.at("large.xml"), "--out", out)
  let seen = ""
  child.stderr?.on("data", (chunk) => (seen += chunk))
  const begun = () => readdirSync(dir.at("work")).length > 0
  while (!begun() && child.exitCode === null) await new Promise((next) => setTimeout(next, 5))
  child.kill("SIGINT")
  expect((await ran).status, seen).toBe(130)
  expect(readdirSync(dir.at("work"))).toEqual([])
})
