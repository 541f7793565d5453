/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
/**
 * What makes the page move: the choices, what a pointer shows, and the lines that come in while a run goes.
 * Put behind the other files of this folder in one script, without a library.
 */
import { frameOf, placeText } from "./chart.ts"
import type { ChartOptions } from "./chart.ts"
import type { Axis, Metrics, RunData, Sample, View } from "./data.ts"
import { chartsOf, chartsView, configView, runsTable, samplesView, spanText } from "./view.ts"
import type { Html } from "../../report/html.ts"

/** What a live page is told; `begin` comes first, and again where a run was cut back or replaced. */
export type Told =
  | { readonly type: "begin"; readonly run: string; readonly config: Readonly<Record<string, unknown>> }
  | { readonly type: "metrics"; readonly run: string; readonly lines: ReadonlyArray<Metrics> }
  | { readonly type: "samples"; readonly run: string; readonly lines: ReadonlyArray<Sample> }

interface Growing {
  readonly name: string
  config: Readonly<Record<string, unknown>>
  lines: Array<Metrics>
  samples: Array<Sample>
}

const element = (id: string) => document.getElementById(id)

/** Starts the page's life. */
export const start = (): void => {
  const embedded = element("data")
  const runs: Array<Growing> =
    embedded === null
      ? []
      : (JSON.parse(embedded.textContent ?? "[]") as ReadonlyArray<RunData>).map((run) => ({
          ...run,
          lines: [...run.lines],
          samples: [...run.samples]
        }))
  const isLive = embedded === null
  const choice = { axis: "step" as Axis, smoothing: 0.6, log: false, hidden: new Set<string>() }
  const view = (): View => ({ ...choice, ...(isLive ? { now: Date.now() / 1000 } : {}) })
  let charts: ReadonlyArray<ChartOptions> = []
  const shown = new Map<string, string>()

  /** Puts HTML into a section unless it is there already: what a reader has opened stays open. */
  const put = (id: string, content: Html | undefined) => {
    const text = content?.text ?? ""
    const place = element(id)
    if (place === null || shown.get(id) === text) return
    shown.set(id, text)
    const open = [...place.querySelectorAll("details")].map((details) => details.open)
    place.innerHTML = text
    place.toggleAttribute("hidden", text === "")
    for (const [n, details] of [...place.querySelectorAll("details")].entries())
      details.open = open[n] === true
  }

  const draw = () => {
    const now = view()
    charts = chartsOf(runs, now)
    put("runs", runsTable(runs, now))
    put("charts", chartsView(charts))
    put("answers", samplesView(runs, now))
    put("config", configView(runs))
    const span = element("span")
    if (span !== null) span.textContent = spanText(runs)
  }
  let waiting = false
  const drawSoon = () => {
    if (waiting) return
    waiting = true
    setTimeout(() => {
      waiting = false
      draw()
    }, 100)
  }

  document.addEventListener("input", ({ target }) => {
    if (!(target instanceof HTMLInputElement)) return
    const { run } = target.dataset
    if (run !== undefined && target.checked) choice.hidden.delete(run)
    else if (run !== undefined) choice.hidden.add(run)
    else if (target.name === "axis") choice.axis = target.value as Axis
    else if (target.name === "smoothing") choice.smoothing = Number(target.value)
    else if (target.name === "log") choice.log = target.checked
    draw()
  })

  let tip: HTMLElement | undefined
  const dropTip = () => {
    tip?.remove()
    tip = undefined
    for (const mark of document.querySelectorAll(".cursor")) mark.remove()
  }
  const drawMark = (svg: Element, name: string, values: Readonly<Record<string, number | string>>) => {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", name)
    for (const [key, value] of Object.entries(values)) mark.setAttribute(key, String(value))
    svg.append(mark)
  }
  /** The values of each line nearest to the pointer. */
  const point = (event: PointerEvent) => {
    dropTip()
    const figure = event.target instanceof Element ? event.target.closest("figure.chart") : null
    const svg = figure?.querySelector("svg")
    const options = charts.find(({ id }) => id === figure?.id)
    const frame = options === undefined ? undefined : frameOf(options)
    if (!(figure instanceof HTMLElement) || !svg || options === undefined || frame === undefined) return
    const box = svg.getBoundingClientRect()
    const px = ((event.clientX - box.left) / box.width) * frame.width
    if (px < frame.left - 5 || px > frame.right + 5) return
    const wanted = frame.from + ((px - frame.left) / (frame.right - frame.left)) * (frame.to - frame.from)
    const near = options.series
      .filter(({ look }) => look !== "faint")
      .flatMap((series) => {
        const closest = series.points.reduce<(typeof series.points)[number] | undefined>(
          (best, each) =>
            best === undefined || Math.abs(each[0] - wanted) < Math.abs(best[0] - wanted) ? each : best,
          undefined
        )
        return closest === undefined ? [] : [{ series, closest }]
      })
    const first = near.toSorted(
      (a, b) => Math.abs(a.closest[0] - wanted) - Math.abs(b.closest[0] - wanted)
    )[0]
    if (first === undefined) return
    const x =
      frame.left + ((first.closest[0] - frame.from) / (frame.to - frame.from)) * (frame.right - frame.left)
    const height = svg.viewBox.baseVal.height
    drawMark(svg, "line", { class: "cursor", x1: x, x2: x, y1: 10, y2: height - 26 })
    tip = document.createElement("div")
    tip.className = "tip"
    const head = document.createElement("div")
    head.textContent = `${options.axis === "step" ? "step " : ""}${placeText(options.axis, first.closest[0])}`
    tip.append(head)
    for (const { series, closest } of near) {
      const line = document.createElement("div")
      line.className = `c${series.colour}`
      const swatch = document.createElement("i")
      swatch.className = "swatch"
      const value = document.createElement("b")
      value.textContent = options.format(closest[1])
      line.append(swatch, series.name, value)
      tip.append(line)
    }
    figure.append(tip)
    const host = figure.getBoundingClientRect()
    const at = box.left - host.left + (x / frame.width) * box.width
    const before = at + tip.offsetWidth + 24 > host.width
    tip.style.left = `${before ? at - tip.offsetWidth - 12 : at + 12}px`
    tip.style.top = `${box.top - host.top + 14}px`
  }
  document.addEventListener("pointermove", point)
  document.addEventListener("pointerleave", dropTip)

  document.documentElement.classList.add("js")
  if (!isLive) {
    draw()
    return
  }
  const live = element("live")
  const say = (state: string, text: string) => {
    if (live === null) return
    live.className = state
    live.textContent = text
  }
  const take = (told: Told) => {
    let run = runs.find(({ name }) => name === told.run)
    if (told.type === "begin") {
      if (run === undefined) {
        run = { name: told.run, config: told.config, lines: [], samples: [] }
        runs.push(run)
        runs.sort((a, b) => (a.name < b.name ? -1 : 1))
      }
      run.config = told.config
      run.lines = []
      run.samples = []
    } else if (told.type === "metrics") run?.lines.push(...told.lines)
    else run?.samples.push(...told.lines)
  }
  const source = new EventSource("events")
  // A new connection tells everything from the beginning, each run with its `begin`.
  source.addEventListener("open", () => say("on", "live"))
  source.addEventListener("error", () => say("off", "the dashboard has ended; waiting for it"))
  source.addEventListener("message", ({ data }) => {
    for (const told of JSON.parse(String(data)) as ReadonlyArray<Told>) take(told)
    drawSoon()
  })
  // Ages and times left go on without lines.
  setInterval(drawSoon, 10_000)
}
