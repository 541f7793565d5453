/**
 * The parts of the page as pure functions of runs and view, so that the server, the file and the browser draw
 * the same. All of it is HTML by construction: what runs have written is text.
 */
import { html } from "../../report/html.ts"
import type { Html } from "../../report/html.ts"
import { chart } from "./chart.ts"
import type { ChartOptions, Series } from "./chart.ts"
import { lastOf, measuresOf, pointsOf, smooth } from "./data.ts"
import type { RunData, View } from "./data.ts"
import { bytes, duration, figure, moment, share, short, whole } from "./format.ts"

const colours = 8
const colourOf = (place: number) => place % colours

interface Measure {
  readonly key: string
  readonly title: string
  readonly note?: string
  readonly format?: (value: number) => string
  readonly smoothed?: boolean
  readonly log?: boolean
  readonly wide?: boolean
  readonly fromZero?: boolean
  /** Drawn dashed in the same chart. */
  readonly also?: string
}

/** The charts in their order; a measure that nobody knows comes after them under its own name. */
const known: ReadonlyArray<Measure> = [
  { key: "loss", title: "Training loss", note: "nats a token", smoothed: true, log: true, wide: true },
  { key: "eval_loss", title: "Evaluation loss", note: "nats a token", log: true },
  { key: "eval_bleu4", title: "BLEU-4 of answers" },
  {
    key: "rewards/accuracies",
    title: "Reward accuracy",
    note: "pairs told apart rightly",
    format: share,
    smoothed: true
  },
  { key: "rewards/margins", title: "Reward margin", smoothed: true },
  {
    key: "rewards/chosen",
    also: "rewards/rejected",
    title: "Rewards",
    note: "chosen, dashed: rejected",
    smoothed: true
  },
  { key: "eval_rewards/accuracies", title: "Reward accuracy, evaluation", format: share },
  { key: "eval_rewards/margins", title: "Reward margin, evaluation" },
  {
    key: "eval_rewards/chosen",
    also: "eval_rewards/rejected",
    title: "Rewards, evaluation",
    note: "chosen, dashed: rejected"
  },
  { key: "learning_rate", title: "Learning rate", fromZero: true },
  { key: "grad_norm", title: "Gradient norm", note: "before clipping", smoothed: true, log: true },
  { key: "tokens_per_second", title: "Tokens a second", smoothed: true, format: short, fromZero: true },
  { key: "rss_bytes", title: "Memory", note: "of the process", format: bytes, fromZero: true },
  { key: "padding_share", title: "Padding", format: share, fromZero: true },
  { key: "loss_scale", title: "Loss scale", note: "of f16", log: true, format: short },
  { key: "skipped_steps", title: "Skipped steps", note: "of f16" }
]

const drawnElsewhere = new Set(known.flatMap(({ also }) => also ?? []))

/** Where a run is, and how it fares. */
const status = (run: RunData, now: number | undefined) => {
  const last = run.lines.at(-1)
  const [step, total] = [last?.step, lastOf(run, "total_steps")]
  const time = last?.time
  const age = now === undefined || time === undefined ? undefined : now - time
  const isDone = step !== undefined && total !== undefined && step >= total
  const rate = lastOf(run, "tokens_per_second")
  const steps = run.lines.filter((line) => line.loss !== undefined && line.seconds !== undefined)
  const [first, end] = [steps.at(-21) ?? steps[0], steps.at(-1)]
  const pace =
    first !== undefined && end !== undefined && end.step > first.step
      ? ((end.seconds ?? 0) - (first.seconds ?? 0)) / (end.step - first.step)
      : undefined
  const left =
    pace === undefined || total === undefined || isDone ? undefined : (total - (end?.step ?? 0)) * pace
  const best = run.lines.reduce((low, line) => Math.min(low, line.eval_loss ?? Infinity), Infinity)
  const state = isDone
    ? "done"
    : age === undefined
      ? undefined
      : age < 60
        ? "running"
        : `${duration(age)} ago`
  return { step, total, state, rate, left, best, seconds: lastOf(run, "seconds"), isDone }
}

type Cell = readonly [name: string, value: string | undefined]

const cellsOf = (run: RunData, now: number | undefined): ReadonlyArray<Cell> => {
  const { step, total, rate, left, best, seconds } = status(run, now)
  const text = (value: number | undefined, format: (value: number) => string) =>
    value === undefined || !Number.isFinite(value) ? undefined : format(value)
  const padding = lastOf(run, "padding_share")
  return [
    [
      "step",
      step === undefined ? undefined : `${whole(step)}${total === undefined ? "" : ` of ${whole(total)}`}`
    ],
    ["epoch", text(lastOf(run, "epoch"), (value) => value.toFixed(2))],
    ["loss", text(lastOf(run, "loss"), figure)],
    ["best evaluation", text(best, figure)],
    ["BLEU-4", text(lastOf(run, "eval_bleu4"), figure)],
    ["reward accuracy", text(lastOf(run, "rewards/accuracies"), share)],
    ["tokens", text(lastOf(run, "tokens"), short)],
    ["tokens a second", text(rate, short)],
    ["memory", text(lastOf(run, "rss_bytes"), bytes)],
    ["padding", padding === 0 ? "none" : text(padding, share)],
    ["time", text(seconds, duration)],
    ["left", text(left, duration)]
  ]
}

/** All runs beside each other: a box to hide each, and how it fares. */
export const runsTable = (runs: ReadonlyArray<RunData>, view: View): Html => {
  const cells = runs.map((run) => cellsOf(run, view.now))
  const names = (cells[0] ?? [])
    .map(([name]) => name)
    .filter((_, place) => cells.some((row) => row[place]?.[1] !== undefined))
  return html`<div class="scroll">
    <table class="runs">
      <thead>
        <tr>
          <th scope="col">run</th>
          ${names.map((name) => html`<th scope="col" class="number">${name}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${runs.map((run, place) => {
          const { state, step, total } = status(run, view.now)
          const row = new Map(cells[place])
          const percent = step === undefined || total === undefined ? undefined : (step / total) * 100
          return html`<tr class="c${colourOf(place)}">
            <th scope="row">
              <label
                ><input type="checkbox" data-run="${run.name}" ${!view.hidden.has(run.name) && "checked"} /><i
                  class="swatch"
                ></i
                >${run.name}</label
              >${state !== undefined && html`<span class="state ${state === "running" && "on"}">${state}</span>`}${
                percent !== undefined &&
                html`<svg class="progress" viewBox="0 0 100 2" preserveAspectRatio="none" aria-hidden="true">
                  <rect class="rest" width="100" height="2" />
                  <rect width="${percent.toFixed(2)}" height="2" />
                </svg>`
              }
            </th>
            ${names.map((name) => html`<td class="number">${row.get(name) ?? "–"}</td>`)}
          </tr>`
        })}
      </tbody>
    </table>
  </div>`
}

/** The charts that there is something for, as what `chart` takes. */
export const chartsOf = (runs: ReadonlyArray<RunData>, view: View): ReadonlyArray<ChartOptions> => {
  const there = measuresOf(runs)
  const measures = [
    ...known.filter(({ key }) => there.includes(key)),
    ...there
      .filter((key) => !drawnElsewhere.has(key) && !known.some((measure) => measure.key === key))
      .map((key): Measure => ({ key, title: key }))
  ].filter(
    // Nothing but zeros is said in the table; a chart of it says no more.
    ({ key }) =>
      !["padding_share", "skipped_steps"].includes(key) ||
      runs.some((run) => run.lines.some((line) => (line[key] ?? 0) > 0))
  )
  return measures.map((measure, number) => {
    const series = runs.flatMap((run, place): ReadonlyArray<Series> => {
      if (view.hidden.has(run.name)) return []
      const colour = colourOf(place)
      const drawn = (key: string, look: Series["look"]): ReadonlyArray<Series> => {
        const points = pointsOf(run, key, view.axis)
        if (points.length === 0) return []
        const name = key === measure.key ? run.name : `${run.name} (${key.split("/").at(-1) ?? key})`
        if (measure.smoothed !== true || view.smoothing === 0 || points.length < 3) {
          return [{ name, colour, look: key.startsWith("eval_") && look === "line" ? "dots" : look, points }]
        }
        return [
          ...(look === "line" ? [{ name, colour, look: "faint", points } as const] : []),
          { name, colour, look, points: smooth(points, view.smoothing) }
        ]
      }
      return [
        ...drawn(measure.key, "line"),
        ...(measure.also === undefined ? [] : drawn(measure.also, "dashed"))
      ]
    })
    return {
      id: `chart-${number}`,
      title: measure.title,
      ...(measure.note === undefined ? {} : { note: measure.note }),
      series,
      axis: view.axis,
      log: view.log && measure.log === true,
      format: measure.format ?? figure,
      wide: measure.wide === true,
      fromZero: measure.fromZero === true
    }
  })
}

export const chartsView = (charts: ReadonlyArray<ChartOptions>): Html =>
  charts.length === 0
    ? html`<p class="empty">No step has been logged yet.</p>`
    : html`<div class="grid">${charts.map(chart)}</div>`

/** Answers shown before the others are folded away. */
const shownAnswers = 3
const shownPrompts = 12

/** Each prompt with its answers, the newest first. */
export const samplesView = (runs: ReadonlyArray<RunData>, view: View): Html | undefined => {
  const prompts = new Map<
    string,
    { label: string; answers: Array<{ place: number; step: number; text: string }> }
  >()
  for (const [place, run] of runs.entries()) {
    if (view.hidden.has(run.name)) continue
    for (const { step, prompt, response, label } of run.samples) {
      const entry = prompts.get(prompt) ?? { label, answers: [] }
      entry.answers.push({ place, step, text: response })
      prompts.set(prompt, entry)
    }
  }
  if (prompts.size === 0) return undefined
  const line = ({ place, step, text }: { place: number; step: number; text: string }) =>
    html`<li class="c${colourOf(place)}">
      <span class="step">${runs.length > 1 && html`<i class="swatch"></i>`}${short(step)}</span
      ><bdi>${text === "" ? html`<em>nothing</em>` : text}</bdi>
    </li>`
  const cards = [...prompts].slice(0, shownPrompts).map(([prompt, { label, answers }]) => {
    const newest = answers.toSorted((a, b) => b.step - a.step || a.place - b.place)
    const few = Math.max(shownAnswers, runs.length)
    return html`<article class="sample">
      <h3><bdi>${prompt}</bdi></h3>
      ${label !== "" && html`<p class="label"><span class="step">truth</span><bdi>${label}</bdi></p>`}
      <ul>
        ${newest.slice(0, few).map(line)}
      </ul>
      ${
        newest.length > few &&
        html`<details>
          <summary>${newest.length - few} earlier</summary>
          <ul>
            ${newest.slice(few).map(line)}
          </ul>
        </details>`
      }
    </article>`
  })
  return html`<h2>Answers</h2>
    <p class="note">
      What the model writes to the first rows of the validation set at each evaluation; the number is the
      step.
    </p>
    <div class="samples">${cards}</div>`
}

const settingText = (value: unknown): string => {
  if (value === undefined) return "–"
  return typeof value === "string" ? value : JSON.stringify(value)
}

/** The configurations; of several runs what differs comes first. */
export const configView = (runs: ReadonlyArray<RunData>): Html | undefined => {
  const keys = [...new Set(runs.flatMap(({ config }) => Object.keys(config)))]
  if (keys.length === 0) return undefined
  const differs = (key: string) => new Set(runs.map(({ config }) => settingText(config[key]))).size > 1
  const row = (key: string) =>
    html`<tr class="${differs(key) && "differs"}">
      <th scope="row">${key}</th>
      ${runs.map(({ config }) => html`<td><code>${settingText(config[key])}</code></td>`)}
    </tr>`
  return html`<details>
    <summary>Configuration${runs.length > 1 && ": what differs stands first"}</summary>
    <div class="scroll">
      <table>
        ${
          runs.length > 1 &&
          html`<thead>
            <tr>
              <th scope="col">key</th>
              ${runs.map(
                ({ name }, place) =>
                  html`<th scope="col" class="c${colourOf(place)}"><i class="swatch"></i>${name}</th>`
              )}
            </tr>
          </thead>`
        }
        <tbody>
          ${keys.filter(differs).map(row)}${keys.filter((key) => !differs(key)).map(row)}
        </tbody>
      </table>
    </div>
  </details>`
}

/** When the runs began and were last heard of. */
export const spanText = (runs: ReadonlyArray<RunData>): string => {
  const times = runs.flatMap(({ lines }) => lines.flatMap(({ time }) => time ?? []))
  if (times.length === 0) return ""
  const [from, to] = [times.reduce((a, b) => Math.min(a, b)), times.reduce((a, b) => Math.max(a, b))]
  const [began, ended] = [moment(from), moment(to)]
  if (began === ended) return `${began} UTC`
  // The day once, where it is the same.
  return `${began} – ${began.slice(0, 5) === ended.slice(0, 5) ? ended.slice(6) : ended} UTC`
}
