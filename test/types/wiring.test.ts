/** Type tests: what must not compile does not, and what must compile does. */
import { execFile } from "node:child_process"
import { join, resolve } from "node:path"

import { describe, expect, it } from "vitest"

const root = resolve(import.meta.dirname, "../..")

describe("pipelines", () => {
  it("wire only what fits", async () => {
    const said = await new Promise<string>((done) =>
      execFile(
        process.execPath,
        [join(root, "node_modules/typescript/bin/tsc"), "-p", join(import.meta.dirname, "tsconfig.json")],
        (_, stdout) => done(stdout)
      )
    )
    expect(said).toBe("")
  })
})
