/** docs/fetch.md, docs/rows.md and docs/tokenizer.md name what there is. */
import { readFileSync } from "node:fs"
import { join } from "node:path"

import { describe, expect, it } from "vitest"

import * as chatlm from "../../ts/index.ts"
import * as stages from "../../ts/pipeline/index.ts"
import { root } from "../e2e/support.ts"

const guide = (name: string) => readFileSync(join(root, "docs", name), "utf8")
const [fetch, rows, tokenizer] = [guide("fetch.md"), guide("rows.md"), guide("tokenizer.md")]

describe("docs/fetch.md", () => {
  it("shows references that are some", () => {
    const shown = [...fetch.matchAll(/(?<![\w`./])(?:hf|modelscope):[^\s'",`]+/g)].map(([text]) => text)
    expect(shown.length).toBeGreaterThan(8)
    for (const text of shown) expect(chatlm.parseReference(text).name).toMatch(/^[\w-]+\/[\w-]+$/)
  })

  it("names variables that decide something", () => {
    const settings = readFileSync(join(root, "ts/fetch/settings.ts"), "utf8")
    const names = new Set([...fetch.matchAll(/\b(?:HF|MODELSCOPE)_[A-Z_]+/g)].map(([name]) => name))
    expect(names.size).toBeGreaterThan(7)
    for (const name of names) expect(settings).toContain(name)
  })
})

describe("programs of the guides", () => {
  it.each([
    ["fetch.md", fetch],
    ["rows.md", rows],
    ["tokenizer.md", tokenizer]
  ])("%s imports what is exported", (_, text) => {
    const imports = [...text.matchAll(/import \{ ([^}]+) \} from "(chatlm(?:\/pipeline)?)"/g)]
    expect(imports.length).toBeGreaterThan(0)
    for (const [, names = "", from] of imports) {
      for (const name of names.split(", "))
        expect(Object.keys(from === "chatlm" ? chatlm : stages)).toContain(name)
    }
  })
})
