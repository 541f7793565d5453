// The addon with workers over Open MPI: `npm run build:mpi`, into npm/chatlm-mpi-linux-x64. What `mpirun` starts takes it
// (ts/native/addon.ts); the ordinary one stays. Where Open MPI or libclang (for its bindings) is missing, Debian's
// packages are installed if this user may.
import { spawnSync } from "node:child_process"
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import { bin, has, install, node, root, run } from "./lib.mjs"

const clang = () => spawnSync("sh", ["-c", "ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so*"]).stdout.length > 0
install([
  ...(has("mpicc") && has("mpirun") ? [] : ["libopenmpi-dev", "openmpi-bin"]),
  ...(clang() ? [] : ["libclang-dev", "clang"])
])
const folder = mkdtempSync(join(tmpdir(), "chatlm-mpi-"))
process.on("exit", () => rmSync(folder, { recursive: true, force: true }))
run(node, [
  bin("@napi-rs/cli/dist/cli.js"), "build", "--platform", "--release", "--esm", "--features", "mpi",
  "--manifest-path", "crates/chatlm-napi/Cargo.toml", "--output-dir", folder, "--dts", "index.d.ts", "--js", "index.js"
], { label: "napi build" })
const out = join(root, "npm", "chatlm-mpi-linux-x64")
mkdirSync(out, { recursive: true })
copyFileSync(join(folder, "chatlm.linux-x64-gnu.node"), join(out, "chatlm.linux-x64-mpi.node"))
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
writeFileSync(join(out, "package.json"), JSON.stringify({ name: "chatlm-mpi-linux-x64", version, private: true }, null, 2))
