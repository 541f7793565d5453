// Makes dist/page from this folder: one script (rolldown), the style sheet, the page and its icon as they are.
import { copyFileSync, mkdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

import { rolldown } from "rolldown"

const source = fileURLToPath(new URL(".", import.meta.url))
const target = fileURLToPath(new URL("../dist/page/", import.meta.url))

rmSync(target, { recursive: true, force: true })
mkdirSync(target, { recursive: true })
const bundle = await rolldown({
  input: join(source, "src/main.tsx"),
  tsconfig: join(source, "tsconfig.json"),
  transform: { target: "es2022" }
})
await bundle.write({ file: join(target, "app.js"), format: "esm", minify: true })
await bundle.close()
for (const name of ["index.html", "style.css", "icon.svg"])
  copyFileSync(join(source, name), join(target, name))
