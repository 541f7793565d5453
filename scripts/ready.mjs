// All that CI checks, in CI's order: generated files, format, lints, types, tests.
import { bin, has, install, mayInstall, node, run } from "./lib.mjs"

const step = (name, command, args) => {
  console.error(`\n── ${name}`)
  run(command, args, { label: name })
}

step("build", process.execPath, ["scripts/bootstrap.mjs"])
step("generated files are the committed ones", "git", ["diff", "--exit-code", "--stat", "--", "index.js", "index.d.ts", "Cargo.lock", "package-lock.json"])
step("format of Rust", "cargo", ["fmt", "--all", "--check"])
step("format of TypeScript", node, [bin("oxfmt/bin/oxfmt"), "--check", "ts", "page", "test", "examples", "bin", "benches/peers.mjs", "benches/generation.mjs", "benches/python.mjs"])
step("lints of TypeScript", node, [bin("oxlint/bin/oxlint"), "--deny-warnings", "ts", "page", "test", "examples", "scripts", "bin", "benches"])
step("types of TypeScript", node, [bin("typescript/bin/tsc"), "-p", "tsconfig.test.json", "--noEmit"])
step("lints of Rust", "cargo", ["clippy", "--release", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
// A machine of CI's starts bare. Elsewhere the tests that want these skip, saying so.
if (process.env.CI && mayInstall()) {
  console.error("\n── a browser and Open MPI for their tests")
  install(has("chromium") ? [] : ["chromium"])
  run(process.execPath, ["scripts/mpi.mjs"], { label: "build:mpi" })
}
// Last, so that the closing line of CI is the count of tests.
step("tests", process.execPath, ["scripts/test.mjs"])
