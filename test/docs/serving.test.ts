/** The programs of docs/serving.md compile. */
import { execFile } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"

import { expect, it } from "vitest"

import { root } from "../e2e/support.ts"

const guide = readFileSync(join(root, "docs/serving.md"), "utf8")
const programs = [...guide.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, program = ""]) => program)

it("the programs of docs/serving.md compile", async () => {
  expect(programs.length).toBeGreaterThan(3)
  // Inside the project, where packages are found.
  mkdirSync(join(root, "node_modules/.cache"), { recursive: true })
  const folder = mkdtempSync(join(root, "node_modules/.cache/chatlm-docs-"))
  for (const [place, program] of programs.entries()) writeFileSync(join(folder, `${place}.ts`), program)
  const options = { rootDir: root, noUnusedLocals: false }
  const config = { extends: join(root, "tsconfig.test.json"), compilerOptions: options, include: ["*.ts"] }
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ ...config, exclude: [] }))
  const said = await new Promise<string>((done) =>
    execFile(
      process.execPath,
      [join(root, "node_modules/typescript/bin/tsc"), "-p", folder, "--noEmit"],
      (_, stdout) => done(stdout)
    )
  )
  rmSync(folder, { recursive: true })
  expect(said).toBe("")
})
