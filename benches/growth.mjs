// What a training step costs as rows grow longer and batches larger: `npm run bench:growth -- [--precision f32]`.
// Prints a markdown table and writes growth.svg beside this file. Linear in tokens but for attention's square.
// With --generate [--dtype f32] [--model DIR]: what a token of an answer costs as the answer grows (growth-generate.svg);
// the model is the peers' random one where none is given. Flat but for attention over what is written.
import { spawnSync } from "node:child_process"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { parseArgs } from "node:util"

import { node, root } from "../scripts/lib.mjs"
import { findPython, randomModel } from "./python.mjs"

const { values: flags } = parseArgs({
  options: {
    precision: { type: "string", default: "f32" },
    lengths: { type: "string", default: "64,128,256,512" },
    batches: { type: "string", default: "1,4,16" },
    generate: { type: "boolean", default: false },
    dtype: { type: "string", default: "f32" },
    model: { type: "string" },
    threads: { type: "string", default: "2" }
  }
})
const numbers = (text) => text.split(",").map(Number)
const [lengths, batches] = [numbers(flags.lengths), numbers(flags.batches)]

const chatlm = (...args) => {
  const ran = spawnSync(node, [join(root, "bin/chatlm.mjs"), ...args, "--json"], { encoding: "utf8" })
  if (ran.status !== 0) throw new Error(ran.stderr)
  return JSON.parse(ran.stdout)
}
const words = (values) => Object.entries(values).flatMap(([name, value]) => [`--${name}`, String(value)])
const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`

const training = {
  svg: "growth.svg",
  title: `Seconds a training step, 0.2 B model, ${flags.precision} (dashed: linear in tokens)`,
  axis: "tokens a step, source and target",
  head: (length) => `${length} + ${length}`,
  measure: (batch, length) => {
    // Few steps where one is long, but three: the second may still ask the system for memory.
    const steps = Math.max(3, Math.min(9, Math.round(4096 / (batch * length))))
    const sizes = { batch, source: length, target: length, steps, precision: flags.precision }
    return chatlm("bench", "train-step", ...words(sizes))
  },
  cell: ({ seconds_per_step, tokens_per_second, peak_rss_bytes }) =>
    `${seconds_per_step.toFixed(2)} s, ${tokens_per_second.toFixed(0)} tokens/s, ${gigabytes(peak_rss_bytes)}`,
  point: (batch, length, { seconds_per_step }) => [2 * batch * length, seconds_per_step],
  straight: ([tokens, seconds], least) => (seconds * least) / tokens
}

/** A token is one of every row of the batch: its time is that of a step of decoding, with its share of the encoder's. */
const answering = {
  svg: "growth-generate.svg",
  title: `Milliseconds a token, 0.2 B model, ${flags.dtype} (dashed: as long whatever the length)`,
  axis: "tokens of the answer",
  head: (length) => `${length} tokens`,
  measure: (batch, length) => {
    flags.model ??= randomModel(findPython(), flags.threads)
    const { model, dtype, threads } = flags
    const sizes = { model, dtype, threads, batch, source: 64, tokens: length, search: "greedy" }
    const report = chatlm("bench", "generate", ...words(sizes))
    return { ...report, milliseconds: (1000 * batch) / report.tokens_per_second }
  },
  cell: ({ milliseconds, tokens_per_second, peak_rss_bytes }) =>
    `${milliseconds.toFixed(1)} ms, ${tokens_per_second.toFixed(0)} tokens/s, ${gigabytes(peak_rss_bytes)}`,
  point: (_, length, { milliseconds }) => [length, milliseconds],
  straight: ([, milliseconds]) => milliseconds
}
const kind = flags.generate ? answering : training

const cells = new Map()
for (const batch of batches)
  for (const length of lengths) {
    const report = kind.measure(batch, length)
    cells.set(`${batch},${length}`, report)
    console.error(`${batch} × (${kind.head(length)}): ${kind.cell(report)}`)
  }

const at = (batch, length) => cells.get(`${batch},${length}`)
const line = (items) => `| ${items.join(" | ")} |`
console.log(line(["batch", ...lengths.map(kind.head)]))
console.log(line(["batch", ...lengths].map(() => "---")))
for (const batch of batches) console.log(line([batch, ...lengths.map((length) => kind.cell(at(batch, length)))]))

/** Time over tokens, both on logarithmic axes, a line a batch size, and what no growth would be. */
const plot = () => {
  const [width, height, margin] = [640, 400, 56]
  const points = (batch) => lengths.map((length) => kind.point(batch, length, at(batch, length)))
  const all = batches.flatMap(points)
  const range = (axis) => [Math.min(...all.map((p) => p[axis])) / 1.3, Math.max(...all.map((p) => p[axis])) * 1.3]
  const [[x0, x1], [y0, y1]] = [range(0), range(1)]
  const scale = (value, low, high, size) => (Math.log(value / low) / Math.log(high / low)) * (size - 2 * margin) + margin
  const place = ([tokens, seconds]) =>
    [scale(tokens, x0, x1, width), height - scale(seconds, y0, y1, height)].map((n) => n.toFixed(1))
  const colours = ["#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed"]
  const ticks = (low, high) => {
    const powers = Array.from({ length: 40 }, (_, power) => 2 ** (power - 12))
    return powers.filter((value) => value >= low && value <= high)
  }
  const shapes = batches.map((batch, index) => {
    const path = points(batch).map((point) => place(point).join(","))
    const dots = path.map((point) => `<circle cx="${point.split(",")[0]}" cy="${point.split(",")[1]}" r="3"/>`)
    const [x, y] = path.at(-1).split(",")
    return `<g fill="${colours[index % 5]}" stroke="none"><polyline points="${path.join(" ")}" fill="none" stroke="${colours[index % 5]}" stroke-width="2"/>${dots.join("")}<text x="${x}" y="${Number(y) - 8}" text-anchor="end">batch ${batch}</text></g>`
  })
  const most = all.reduce((a, b) => (a[0] > b[0] ? a : b))
  const straight = [[x0, kind.straight(most, x0)], most].filter(([, y]) => y > 0).map((p) => place(p).join(","))
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<clipPath id="c"><rect x="${margin}" y="${margin}" width="${width - 2 * margin}" height="${height - 2 * margin}"/></clipPath>
<text x="${width / 2}" y="24" text-anchor="middle" font-size="14">${kind.title}</text>
${ticks(x0, x1).map((value) => `<text x="${place([value, y0])[0]}" y="${height - margin + 18}" text-anchor="middle">${value}</text>`).join("")}
${ticks(y0, y1).map((value) => `<text x="${margin - 8}" y="${place([x0, value])[1]}" text-anchor="end">${value}</text>`).join("")}
<rect x="${margin}" y="${margin}" width="${width - 2 * margin}" height="${height - 2 * margin}" fill="none" stroke="#999"/>
<polyline clip-path="url(#c)" points="${straight.join(" ")}" fill="none" stroke="#999" stroke-dasharray="4 4"/>
${shapes.join("\n")}
<text x="${width / 2}" y="${height - 12}" text-anchor="middle">${kind.axis}</text>
</svg>
`
}
writeFileSync(join(root, "benches", kind.svg), plot())
