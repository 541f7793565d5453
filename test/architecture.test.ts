// The arrows between crates, and that the documents name what is there.
import { execFileSync } from "node:child_process"
import { existsSync, readFileSync, readdirSync } from "node:fs"
import { join, resolve } from "node:path"
import { describe, expect, it } from "vitest"

const root = resolve(import.meta.dirname, "..")

interface Package {
  readonly name: string
  readonly dependencies: ReadonlyArray<{ readonly name: string; readonly kind: string | null }>
}

const packages: ReadonlyArray<Package> = JSON.parse(
  execFileSync("cargo", ["metadata", "--format-version=1", "--no-deps", "--offline"], {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 64 << 20,
    stdio: ["ignore", "pipe", "ignore"]
  })
).packages

const uses = (name: string) =>
  (packages.find((p) => p.name === name)?.dependencies ?? [])
    .filter((d) => d.kind === null)
    .map((d) => d.name)

/** The table of crates/README.md, as data. */
const allowed = new Map(
  readFileSync(join(root, "crates/README.md"), "utf8")
    .split("\n")
    .filter((line) => line.startsWith("| chatlm-"))
    .map((line): [string, ReadonlyArray<string>] => {
      const [, name = "", , arrows = ""] = line.split("|").map((cell) => cell.trim())
      const names = [...allCrates()]
      const list = arrows.startsWith("all but")
        ? names.filter(
            (n) =>
              !arrows
                .slice(7)
                .split(",")
                .some((x) => n === `chatlm-${x.trim()}`)
          )
        : arrows
            .split(",")
            .filter((x) => x !== "")
            .map((x) => `chatlm-${x.trim()}`)
      return [name, list]
    })
)

function allCrates(): ReadonlyArray<string> {
  return readdirSync(join(root, "crates")).filter((name) => name.startsWith("chatlm-"))
}

describe("crates", () => {
  it("are all in the table", () => {
    expect([...allowed.keys()].toSorted()).toEqual([...allCrates()].toSorted())
  })

  it.each(allCrates())("%s keeps to its arrows", (name) => {
    const ours = uses(name).filter((dependency) => dependency.startsWith("chatlm-"))
    expect(ours.filter((dependency) => !allowed.get(name)?.includes(dependency))).toEqual([])
  })

  it("only the dataset crate knows polars, only the border knows napi, the data branch no candle", () => {
    const users = (dependency: string) => allCrates().filter((name) => uses(name).includes(dependency))
    expect(users("polars")).toEqual(["chatlm-dataset"])
    expect(users("napi")).toEqual(["chatlm-napi"])
    for (const name of ["chatlm-tokenizer", "chatlm-dataset", "chatlm-clean", "chatlm-dedup"]) {
      expect(uses(name)).not.toContain("candle-core")
    }
  })
})

describe("documents", () => {
  it.each(["README.md", "README.zh-CN.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"])(
    "%s names files that exist",
    (name) => {
      const text = readFileSync(join(root, name), "utf8")
      const links = [...text.matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map((match) => match[1] ?? "")
      expect(links.filter((link) => !existsSync(join(root, link)))).toEqual([])
    }
  )
})
