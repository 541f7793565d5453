// Fuzzing of what reads other people's files, by libFuzzer on the stable compiler:
//   npm run fuzz -- TARGET [--seconds N]     builds and runs a target of fuzz/targets (default: 60 seconds)
//   npm run fuzz -- TARGET --repeat FILE     runs one input again, a crash's say
//   npm run fuzz -- lint                     format and lints of the targets, which are outside the workspace
// The corpus stays in the user's cache, so that the next run goes on from it. Seeds are made at each run from the real
// samples in ../shared (or CHATLM_SHARED) where they are, and from fuzz/seeds. No dependency.
import { spawn, spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"

import { plant } from "./fuzz/seeds.mjs"
import { cache, root } from "./lib.mjs"

const TARGETS = ["wikitext", "csv", "xml", "rules"]

const fail = (message, help) => {
  console.error(`error[USAGE]: ${message}\nhelp: ${help}`)
  process.exit(2)
}

const usage = `npm run fuzz -- ${TARGETS.join("|")} [--seconds N | --repeat FILE], or npm run fuzz -- lint`
const given = () => {
  try {
    return parseArgs({
      allowPositionals: true,
      options: { seconds: { type: "string", default: "60" }, repeat: { type: "string" } }
    })
  } catch (error) {
    return fail(error.message, usage)
  }
}
const { positionals, values } = given()
const [target] = positionals
if (positionals.length !== 1 || ![...TARGETS, "lint"].includes(target)) fail(`there is no target ${positionals.join(" ") || "named"}`, usage)
const seconds = Number(values.seconds)
if (!Number.isInteger(seconds) || seconds < 1) fail(`--seconds ${values.seconds} is no number of seconds`, usage)

// A target folder of its own: other profile, other features.
const build = (args, environment = {}) =>
  spawnSync("cargo", ["build", "--release", "--manifest-path", "fuzz/Cargo.toml", ...args], {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 1 << 28,
    stdio: ["ignore", "pipe", "inherit"],
    env: {
      ...process.env,
      CARGO_TARGET_DIR: join(cache, "chatlm", "target-fuzz"),
      RUSTC_WRAPPER: join(root, "fuzz", "rustc.sh"),
      ...environment
    }
  })

if (target === "lint") {
  const format = spawnSync("cargo", ["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"], { cwd: root, stdio: "inherit" })
  // As cargo clippy does, but over what is built already: cargo check would begin with polars again.
  const { status } = build([], { RUSTC_WORKSPACE_WRAPPER: "clippy-driver" })
  process.exit(format.status || status || 0)
}

const built = build(["--bin", target, "--message-format", "json-render-diagnostics"])
if (built.status !== 0) process.exit(built.status ?? 1)
const binary = built.stdout
  .split("\n")
  .filter((line) => line.includes('"executable":"'))
  .map((line) => JSON.parse(line).executable)
  .at(-1)

const folder = join(cache, "chatlm", "fuzz", target)
const [corpus, crashes] = [join(folder, "corpus"), join(folder, "crashes")]
for (const path of [corpus, crashes]) mkdirSync(path, { recursive: true })
const passing = mkdtempSync(join(tmpdir(), "chatlm-fuzz-"))
// One thread: what a run covers is then a function of its input.
const env = { ...process.env, CHATLM_FUZZ_FOLDER: passing, RAYON_NUM_THREADS: "1" }

if (values.repeat !== undefined) {
  const { status } = spawnSync(binary, [resolve(values.repeat)], { stdio: "inherit", env })
  rmSync(passing, { recursive: true, force: true })
  process.exit(status ?? 1)
}

const seeds = join(passing, "seeds")
mkdirSync(seeds)
const planted = plant(target, seeds)
console.error(`fuzz: ${target}, ${seconds} s, ${planted.count} seeds from ${planted.from}`)

const before = new Set(readdirSync(crashes))
const run = spawn(
  binary,
  [
    `-max_total_time=${seconds}`, "-timeout=10", "-rss_limit_mb=2048", "-max_len=8192", "-print_final_stats=1", "-verbosity=1",
    `-dict=${join(root, "fuzz", "dictionaries", `${target}.txt`)}`, `-artifact_prefix=${crashes}/`, corpus, seeds
  ],
  { stdio: ["ignore", "ignore", "pipe"], env }
)
// Ctrl+C reaches libFuzzer too, which ends with its summary.
process.on("SIGINT", () => {})
let tail = ""
let counters = 0
let covered
run.stderr.setEncoding("utf8")
run.stderr.on("data", (text) => {
  tail = (tail + text).slice(-60_000)
  counters ||= Number(/\((\d+) inline 8-bit counters\)/.exec(tail)?.[1] ?? 0)
  covered = [...text.matchAll(/cov: (\d+) ft: (\d+) corp: (\d+)/g)].at(-1) ?? covered
})
const status = await new Promise((done) => run.on("close", (code) => done(code)))
rmSync(passing, { recursive: true, force: true })

const stat = (name) => /\d+/.exec(new RegExp(`stat::${name}:\\s*(\\d+)`).exec(tail)?.[0] ?? "")?.[0] ?? "?"
const [, edges, features, inputs] = covered ?? []
console.log(`executions  ${stat("number_of_executed_units")} (${stat("average_exec_per_sec")} a second)`)
console.log(`coverage    ${edges} of ${counters} edges, ${features} features, ${inputs} inputs in ${corpus}`)
console.log(`memory      ${stat("peak_rss_mb")} MiB at most`)
const found = readdirSync(crashes).filter((name) => !before.has(name))
console.log(`crashes     ${found.length}`)
for (const name of found) {
  const file = join(crashes, name)
  console.log(`            ${file} (${readFileSync(file).length} bytes)\n            npm run fuzz -- ${target} --repeat ${file}`)
}
if (status !== 0) console.error(tail.split("\n").filter((line) => !/^#\d/.test(line)).slice(-40).join("\n"))
process.exit(status === 0 && found.length === 0 ? 0 : 1)
