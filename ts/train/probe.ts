/**
 * A process of its own around one probe of `plan.ts`: the question on standard input, lines of JSON on standard
 * output. Where memory runs out this process goes, and nothing else: it volunteers.
 */
import { writeFileSync } from "node:fs"
import { createInterface } from "node:readline"

import { loadBorder } from "../native/border.ts"
import type { ProbeOptions, RunKind } from "../native/index.ts"
// A run holds these too; without them its memory would be told too small.
import "./train.ts"

interface Question {
  readonly kind: RunKind
  readonly config: object
  readonly options: ProbeOptions
}

const say = (value: object) => process.stdout.write(`${JSON.stringify(value)}\n`)

try {
  writeFileSync("/proc/self/oom_score_adj", "1000")
} catch {
  // Another system, or not allowed: then the system chooses.
}
const asker = createInterface({ input: process.stdin })
const question = await new Promise<string>((done) => asker.once("line", done))
// Standard input stays open for as long as somebody waits for the answer.
asker.once("close", () => process.exit(1))
const { kind, config, options } = JSON.parse(question) as Question
try {
  const border = await loadBorder()
  say({ report: await border.planProbe(kind, config, options, (progress) => say({ progress })) })
} catch (error) {
  say({ error: error instanceof Error ? error.message : String(error) })
}
process.stdout.write("", () => process.exit(0))
