/**
 * The page's script: the files of `view/` and what they need, one behind the other, without their imports. From
 * `dist` they are JavaScript already; from the sources their types are taken away.
 */
import { readFileSync } from "node:fs"
import * as module from "node:module"

/** Each after those that it uses. No two of them have a name in common. */
const files = [
  "../report/html",
  "./view/data",
  "./view/format",
  "./view/chart",
  "./view/view",
  "./view/browser"
] as const

const extension = import.meta.url.endsWith(".ts") ? ".ts" : ".js"

let made: string | undefined

/** The whole script, read once. */
export const script = (): string => {
  made ??= `"use strict"\n{\n${files
    .map((file) => {
      const text = readFileSync(new URL(`${file}${extension}`, import.meta.url), "utf8")
      const plain = extension === ".ts" ? module.stripTypeScriptTypes(text) : text
      return plain
        .replaceAll(/^import\b[^;]*?from "[^"]+";?$/gm, "")
        .replaceAll(/^export (?=const|class|function)/gm, "")
        .replaceAll(/^\/\/# sourceMappingURL=.*$/gm, "")
        .replaceAll(/^\/\/\/ <reference.*$/gm, "")
    })
    .join("\n")}\nstart()\n}\n`
  return made
}
