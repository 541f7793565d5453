// Brings a checkout to where everything runs: packages installed, native addon built, TypeScript
// compiled. Each part is skipped while the hash of what it is made from is unchanged. No dependency,
// since it runs before anything is installed.
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"

import { bin, hashOf, node, root, run } from "./lib.mjs"

const stamps = join(root, "node_modules", ".chatlm-stamps.json")
const read = () => (existsSync(stamps) ? JSON.parse(readFileSync(stamps, "utf8")) : {})

const once = (part, made, from, work) => {
  const hash = hashOf(...from)
  if (read()[part] === hash && existsSync(join(root, made))) return
  const started = Date.now()
  console.error(`bootstrap: ${part} …`)
  work()
  mkdirSync(join(root, "node_modules"), { recursive: true })
  // Read again: installing packages replaces the folder that holds the stamps.
  writeFileSync(stamps, JSON.stringify({ ...read(), [part]: hash }, null, 2))
  console.error(`bootstrap: ${part} done in ${((Date.now() - started) / 1000).toFixed(0)} s`)
}

if (spawnSync("cargo", ["--version"]).status !== 0) {
  console.error("error[MISSING_RUST]: cargo is not installed\nhelp: install Rust 1.90 or newer from your system or https://rustup.rs, then run this again")
  process.exit(3)
}

once("packages", "node_modules/effect/package.json", ["package-lock.json"], () =>
  run("npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"]))

once("addon", "chatlm.linux-x64-gnu.node", ["Cargo.toml", "Cargo.lock", "crates"], () =>
  run(node, [
    bin("@napi-rs/cli/dist/cli.js"), "build", "--platform", "--release", "--esm",
    "--manifest-path", "crates/chatlm-napi/Cargo.toml", "--output-dir", ".",
    "--dts", "index.d.ts", "--js", "index.js",
  ], { label: "napi build" }))

once("typescript", "dist/index.js", ["ts", "tsconfig.json", "index.d.ts", "package-lock.json"], () =>
  run(node, [bin("typescript/bin/tsc"), "-p", "tsconfig.json"]))

once("page", "dist/page/app.js", ["page", "package-lock.json"], () => {
  run(node, [bin("typescript/bin/tsc"), "-p", "page/tsconfig.json"])
  run(node, ["page/build.mjs"])
})
