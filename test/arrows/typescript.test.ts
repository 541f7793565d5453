/** Which folder of ts/ may import which; ARCHITECTURE.md has the picture. */
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, relative, resolve } from "node:path"
import { fileURLToPath } from "node:url"

import { describe, expect, it } from "vitest"

const root = resolve(dirname(fileURLToPath(import.meta.url)), "../../ts")
const nouns = [
  "clean",
  "dedup",
  "dataset",
  "tokenizer",
  "train",
  "checkpoint",
  "generate",
  "evaluation",
  "bench",
  "fetch",
  "report"
]

/** Folder to the folders it may import, itself aside. */
const allowed: Record<string, ReadonlyArray<string>> = {
  native: [],
  config: ["native"],
  ...Object.fromEntries(nouns.map((noun) => [noun, ["native"]])),
  services: ["native", "config", ...nouns],
  dashboard: ["native", "report"],
  pipeline: ["native", "config", ...nouns],
  cli: ["native", "config", "pipeline", "dashboard", ...nouns],
  http: ["native", "config", "pipeline", ...nouns]
}

const files = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))
const imports = (name: string) =>
  [...readFileSync(join(root, name), "utf8").matchAll(/(?:from|import\()\s*"(\.[^"]+)"/g)].map((match) =>
    relative(root, resolve(root, dirname(name), match[1] ?? ""))
  )
const folderOf = (path: string) => (path.includes("/") ? (path.split("/")[0] ?? "") : "")

describe("arrows between the folders of ts/", () => {
  it("there is something to look at", () => {
    expect(files.length).toBeGreaterThan(30)
    expect(imports("native/native.ts")).toContain("native/border.ts")
  })

  for (const name of files.filter((name) => folderOf(name) !== "")) {
    it(name, () => {
      const from = folderOf(name)
      const wrong = imports(name).filter((target) => {
        const to = folderOf(target)
        return to !== from && !(allowed[from] ?? []).includes(to)
      })
      // The addon lies above ts/; only the border knows it.
      expect(from === "native" ? wrong.filter((target) => target !== "../index.js") : wrong).toEqual([])
    })
  }

  it("only ts/native/border.ts names the addon", () => {
    const naming = files.filter((name) => /["'/]index\.js["']/.test(readFileSync(join(root, name), "utf8")))
    expect(naming).toEqual(["native/border.ts"])
  })

  it("chatlm/client and the API need neither the core nor Node", () => {
    const own = files.filter((name) =>
      ["http/client/", "http/api/"].some((folder) => name.startsWith(folder))
    )
    expect(own.length).toBeGreaterThan(2)
    for (const name of own) {
      const wrong = [...readFileSync(join(root, name), "utf8").matchAll(/(?:from|import\()\s*"([^"]+)"/g)]
        .map((match) => match[1] ?? "")
        .filter((from) => !from.startsWith("effect/") && !/^(\.|\.\.\/api)\/[\w-]+\.ts$/.test(from))
      expect([name, wrong]).toEqual([name, []])
    }
  })

  it("the modules that Effect marks unstable stay in few folders", () => {
    const unstable = /from "effect\/(cli|http|http-api|cluster|workflow|sql|rpc|observability|process)\b/
    const folders = new Set(
      files
        .filter((name) => unstable.test(readFileSync(join(root, name), "utf8")))
        .map((name) => folderOf(name))
    )
    for (const folder of folders) expect(["cli", "dashboard", "http", "pipeline"]).toContain(folder)
  })
})
