// Runs the tests of every runner and ends with one line over all of them: `N passed, N failed`.
// Without arguments everything; `npm test -- rust` or `npm test -- ts [FILTER]` a part.
// CHATLM_TEST_DEVICE=cuda: the numerical tests compute on the first NVIDIA graphics card.
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

import { bin, node, root } from "./lib.mjs"

const [part, ...filters] = process.argv.slice(2)
const device = process.env.CHATLM_TEST_DEVICE || "cpu"
if (!["cpu", "cuda"].includes(device)) {
  console.error(`error[USAGE]: CHATLM_TEST_DEVICE is ${device}\nhelp: use cpu or cuda`)
  process.exit(1)
}
// candle's own pool spins on a barrier, which costs most where cores are shared; see ts/native/border.ts.
process.env.CANDLE_NUM_THREADS ||= "1"
const total = { passed: 0, failed: 0, skipped: 0 }

/** Streams a command's output through and returns its text and status. */
const stream = (command, args) =>
  new Promise((done) => {
    const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "inherit"] })
    let text = ""
    child.stdout.on("data", (chunk) => { text += chunk; process.stdout.write(chunk) })
    child.on("error", (error) => done({ text: error.message, status: 1 }))
    child.on("close", (status) => done({ text, status: status ?? 1 }))
  })

const rust = async () => {
  // One name brings the feature to every crate below.
  const features = device === "cuda" ? ["--features", "chatlm-napi/cuda"] : []
  const { text, status } = await stream("cargo", ["test", "--release", "--workspace", "--no-fail-fast", "--quiet", ...features])
  let failed = 0
  for (const line of text.matchAll(/^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored/gm)) {
    total.passed += Number(line[1])
    failed += Number(line[2])
    total.skipped += Number(line[3])
  }
  // A crate that does not compile reports no test: that is a failure of its own.
  total.failed += status !== 0 && failed === 0 ? 1 : failed
}

const typescript = async () => {
  const folder = mkdtempSync(join(tmpdir(), "chatlm-test-"))
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }))
  const report = join(folder, "vitest.json")
  const { status } = await stream(node, [
    bin("vitest/vitest.mjs"), "run", ...filters, "--reporter=default", "--reporter=json", `--outputFile.json=${report}`,
  ])
  if (!existsSync(report)) {
    total.failed += 1
    return
  }
  const result = JSON.parse(readFileSync(report, "utf8"))
  total.passed += result.numPassedTests
  total.skipped += result.numPendingTests + (result.numTodoTests ?? 0)
  const failed = result.numFailedTests + (result.numFailedTests === 0 ? result.numFailedTestSuites : 0)
  total.failed += status !== 0 && failed === 0 ? 1 : failed
}

if (part === undefined || part === "rust") await rust()
if (part === undefined || part === "ts") await typescript()

console.log(`\n${total.passed} passed, ${total.failed} failed${total.skipped > 0 ? `, ${total.skipped} skipped` : ""}`)
process.exit(total.failed > 0 || total.passed === 0 ? 1 : 0)
