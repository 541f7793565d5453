// The addon with workers over Open MPI: `npm run build:mpi`. It takes the place of the ordinary one, which
// `npm run build` brings back. Where Open MPI or libclang (for its bindings) is missing, Debian's packages
// are installed if this user may.
import { spawnSync } from "node:child_process"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"

import { bin, node, root, run } from "./lib.mjs"

const has = (command) => spawnSync("sh", ["-c", `command -v ${command}`]).status === 0
const clang = () => spawnSync("sh", ["-c", "ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so*"]).stdout.length > 0
const packages = [
  ...(has("mpicc") && has("mpirun") ? [] : ["libopenmpi-dev", "openmpi-bin"]),
  ...(clang() ? [] : ["libclang-dev", "clang"])
]
if (packages.length > 0) {
  console.error(`installing ${packages.join(" ")} (Debian's)`)
  if (process.getuid?.() !== 0 || !has("apt-get")) {
    console.error(`error: they are missing\nhelp: sudo apt-get install ${packages.join(" ")}`)
    process.exit(3)
  }
  run("apt-get", ["update", "-qq"])
  run("apt-get", ["install", "-y", "--no-install-recommends", ...packages])
}
run(node, [
  bin("@napi-rs/cli/dist/cli.js"), "build", "--platform", "--release", "--esm", "--features", "mpi",
  "--manifest-path", "crates/chatlm-napi/Cargo.toml", "--output-dir", ".", "--dts", "index.d.ts", "--js", "index.js"
], { label: "napi build" })
// So that `npm run build` knows that the addon is another one.
const stamps = join(root, "node_modules", ".chatlm-stamps.json")
if (existsSync(stamps)) {
  const { addon: _, ...rest } = JSON.parse(readFileSync(stamps, "utf8"))
  writeFileSync(stamps, JSON.stringify(rest, null, 2))
}
