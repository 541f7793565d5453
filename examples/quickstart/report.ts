/** What the quickstart shows at its end: a table, the loss curve, ten answers, the line to chat. */
import { existsSync } from "node:fs"
import { mkdir, readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"

import type { RunResult, StageResult } from "chatlm/pipeline"
import Table from "cli-table3"

import type { Answered } from "./answers.ts"

const thousands = (value: number) => value.toLocaleString("en-US")
const figure = (value: number | undefined) => (value === undefined ? "" : value.toFixed(value >= 100 ? 1 : 3))
const share = (value: number | undefined) => (value === undefined ? "" : value.toFixed(3))

const figuresOf = (stages: ReadonlyArray<StageResult>) => {
  const byName = new Map(stages.map((stage) => [stage.stage, stage.manifest?.figures ?? {}]))
  return (stage: string, name: string) => byName.get(stage)?.[name]
}

/** The figure that a stage changes, before and after it. */
const changes = (stages: ReadonlyArray<StageResult>): Record<string, readonly [string, string, string]> => {
  const of = figuresOf(stages)
  return {
    pretrain: [
      "validation loss",
      figure(of("evaluate-untrained", "loss")),
      figure(of("evaluate-pretrained", "loss"))
    ],
    sft: ["loss on its rows", figure(of("evaluate-famous", "loss")), figure(of("sft", "loss"))],
    evaluate: ["BLEU-4 on its rows", share(of("evaluate-famous", "bleu4")), share(of("evaluate", "bleu4"))],
    merge: ["logits, adapter against merged", "", (of("merge", "maxLogitDifference") ?? 0).toExponential(1)],
    tokenizer: ["words", "", thousands(of("tokenizer", "vocabSize") ?? 0)]
  }
}

const amount = ({ manifest }: StageResult): string => {
  if (manifest === null) return ""
  if (manifest.steps !== null) return `${thousands(manifest.steps)} steps`
  const { read, kept, train, reading, texts, answers, tokens } = manifest.rows
  if (read !== undefined && kept !== undefined) return `${thousands(read)} → ${thousands(kept)} rows`
  const rows = train ?? reading ?? texts ?? answers
  return rows !== undefined
    ? `${thousands(rows)} rows`
    : tokens !== undefined
      ? `${thousands(tokens)} tokens`
      : ""
}

export const tableOf = (result: RunResult): string => {
  const change = changes(result.stages)
  const table = new Table({
    head: ["stage", "rows or steps", "seconds", "figure", "before", "after"],
    colAligns: ["left", "right", "right", "left", "right", "right"],
    style: { head: [], border: [], compact: true }
  })
  let seconds = 0
  for (const stage of result.stages) {
    seconds += stage.manifest?.seconds ?? 0
    table.push([
      stage.stage,
      amount(stage),
      (stage.manifest?.seconds ?? 0).toFixed(1),
      ...(change[stage.stage] ?? ["", "", ""])
    ])
  }
  table.push(["all", "", seconds.toFixed(1), "", "", ""])
  return table.toString()
}

interface Point {
  readonly step: number
  readonly loss: number
}

/** Every line of a run's metrics that has the given figure. */
const pointsOf = async (
  stage: StageResult | undefined,
  key: "loss" | "eval_loss"
): Promise<ReadonlyArray<Point>> => {
  const file = join(stage?.folder ?? "", "records", "metrics.jsonl")
  if (stage === undefined || !existsSync(file)) return []
  return (await readFile(file, "utf8"))
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, number | null>)
    .flatMap((line) => (typeof line[key] === "number" ? [{ step: line.step ?? 0, loss: line[key] }] : []))
}

/** The losses of the trainings, one after the other along one axis of steps. */
export const curveOf = async (result: RunResult): Promise<string> => {
  const [width, height, left, right, top, bottom] = [760, 340, 56, 16, 40, 44]
  const names = ["pretrain", "sft", "dpo"]
  const colours: Record<string, string> = { pretrain: "#2563eb", sft: "#059669", dpo: "#d97706" }
  const runs = []
  let offset = 0
  for (const name of names) {
    const stage = result.stages.find((stage) => stage.stage === name)
    const steps = stage?.manifest?.steps ?? 0
    runs.push({
      name,
      offset,
      steps,
      training: await pointsOf(stage, "loss"),
      validation: await pointsOf(stage, "eval_loss")
    })
    offset += steps
  }
  const highest = Math.max(
    1,
    ...runs.flatMap(({ training, validation }) => [...training, ...validation]).map(({ loss }) => loss)
  )
  const x = (step: number) => left + (step / Math.max(1, offset)) * (width - left - right)
  const y = (loss: number) => height - bottom - (loss / highest) * (height - top - bottom)
  const path = (points: ReadonlyArray<Point>, from: number) =>
    points
      .map(
        ({ step, loss }, index) =>
          `${index === 0 ? "M" : "L"}${x(from + step).toFixed(1)} ${y(loss).toFixed(1)}`
      )
      .join("")
  const tick = Math.max(1, Math.ceil(highest / 5))
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`
  ]
  for (let loss = 0; loss <= highest; loss += tick) {
    parts.push(
      `<line x1="${left}" x2="${width - right}" y1="${y(loss)}" y2="${y(loss)}" stroke="#e5e7eb"/>`,
      `<text x="${left - 8}" y="${y(loss) + 4}" text-anchor="end" fill="#6b7280">${loss}</text>`
    )
  }
  for (const { name, offset, steps, training, validation } of runs.filter(({ steps }) => steps > 0)) {
    const middle = x(offset + steps / 2)
    parts.push(
      `<line x1="${x(offset)}" x2="${x(offset)}" y1="${top}" y2="${height - bottom}" stroke="#9ca3af" stroke-dasharray="3 3"/>`,
      `<text x="${middle}" y="${height - bottom + 18}" text-anchor="middle" fill="#374151">${steps >= offset * 0.08 ? `${name}, ${steps} steps` : name}</text>`,
      `<path d="${path(training, offset)}" fill="none" stroke="${colours[name] ?? "#000"}" stroke-width="1.8"/>`,
      ...validation.map(
        ({ step, loss }) =>
          `<circle cx="${x(offset + step).toFixed(1)}" cy="${y(loss).toFixed(1)}" r="4" fill="none" stroke="#dc2626" stroke-width="1.6"/>`
      )
    )
  }
  parts.push(
    `<text x="${left}" y="22" fill="#111827" font-size="14">loss by optimizer step</text>`,
    `<circle cx="${width - 130}" cy="18" r="4" fill="none" stroke="#dc2626" stroke-width="1.6"/>`,
    `<text x="${width - 118}" y="22" fill="#374151">validation rows</text>`,
    "</svg>"
  )
  return parts.join("\n")
}

const readAnswers = async (result: RunResult): Promise<ReadonlyArray<Answered>> => {
  const file = result.results.shown
  return file === undefined ? [] : (JSON.parse(await readFile(file, "utf8")) as ReadonlyArray<Answered>)
}

const answersText = (answers: ReadonlyArray<Answered>) =>
  answers
    .map(({ prompt, label, response, bleu4 }) =>
      [
        `问 ${prompt}`,
        `答 ${response}`,
        ...(response === label ? [] : [`原文 ${label}`]),
        `   BLEU-4 ${share(bleu4)}`
      ].join("\n")
    )
    .join("\n")

/** Writes `report/` under the root and answers the text for the terminal. */
export const report = async (result: RunResult, root: string, model: string): Promise<string> => {
  const folder = join(root, "report")
  await mkdir(folder, { recursive: true })
  const curve = join(folder, "curve.svg")
  await writeFile(curve, await curveOf(result))
  const answers = await readAnswers(result)
  const of = figuresOf(result.stages)
  const before = of("evaluate-untrained", "loss")
  const after = of("evaluate-pretrained", "loss")
  const peak = Math.max(0, ...result.stages.map(({ manifest }) => manifest?.peakRssBytes ?? 0))
  const text = [
    tableOf(result),
    "",
    answersText(answers),
    "",
    ...(before === undefined || after === undefined
      ? []
      : [
          `validation loss ${figure(before)} → ${figure(after)}, ${Math.round((1 - after / before) * 100)} % less than untrained`
        ]),
    `${of("answers", "recognisable") ?? 0} of ${answers.length} answers recognisable (BLEU-4 at least 0.5), ` +
      `${of("answers", "equal") ?? 0} of ${answers.length} the same with the adapter as merged`,
    `${thousands(of("pretrain", "parameters") ?? 0)} parameters, peak memory ${(peak / 1e6).toFixed(0)} MB`,
    `loss curve: ${curve}`,
    `to chat: npx chatlm chat --model ${model}`
  ].join("\n")
  await writeFile(join(folder, "report.txt"), `${text}\n`)
  return text
}
