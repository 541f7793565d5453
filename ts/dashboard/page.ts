/** The page: whole with its runs as one file, or empty with a connection to the server that fills it. */
import { createHash } from "node:crypto"

import { Html, html } from "../report/html.ts"
import { script } from "./bundle.ts"
import { style } from "./style.ts"
import type { RunData, View } from "./view/data.ts"
import { chartsOf, chartsView, configView, runsTable, samplesView, spanText } from "./view/view.ts"

/** What a page shows before anything is chosen; `view/browser.ts` begins with the same. */
const firstView: View = { axis: "step", smoothing: 0.6, log: false, hidden: new Set() }

const controls = html`<form class="controls" autocomplete="off">
  <fieldset aria-label="Horizontal axis">
    ${(["step", "tokens", "seconds", "time"] as const).map(
      (axis) =>
        html`<label
          ><input type="radio" name="axis" value="${axis}" ${axis === "step" && "checked"} /><span
            >${axis === "seconds" ? "duration" : axis === "time" ? "clock" : `${axis}${axis === "step" ? "s" : ""}`}</span
          ></label
        >`
    )}
  </fieldset>
  <label>smooth <input type="range" name="smoothing" min="0" max="0.99" step="0.01" value="0.6" /></label>
  <label><input type="checkbox" name="log" /> logarithmic</label>
</form>`

const hash = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`

/** What a file may do: run this script, look like this, and nothing else. */
const filePolicy = () =>
  `default-src 'none'; script-src ${hash(script())}; style-src ${hash(style)}; base-uri 'none'; form-action 'none'`

/** What a page from the server may do. */
export const livePolicy =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const titleOf = (runs: ReadonlyArray<RunData>) =>
  runs.length === 1 ? (runs[0]?.name ?? "") : `${runs.length} runs`

const document = (
  title: string,
  head: Html,
  runs: ReadonlyArray<RunData>,
  foot: Html,
  live: boolean
): string =>
  html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="referrer" content="no-referrer" />
        <title>${title} – chatlm</title>
        ${head}
      </head>
      <body>
        <header class="top">
          <h1>${title}<small id="span">${spanText(runs)}</small></h1>
          ${live && html`<span id="live">connecting</span>`}${controls}
        </header>
        <main>
          <section id="runs">${runsTable(runs, firstView)}</section>
          <section id="charts">${chartsView(chartsOf(runs, firstView))}</section>
          <section id="answers">${samplesView(runs, firstView)}</section>
          <section id="config">${configView(runs)}</section>
        </main>
        ${foot}
      </body>
    </html> `.text

/** An element whose text is exactly this: its hash is part of the policy, so no formatter may touch it. */
const exact = (tag: string, text: string, attributes = "") =>
  new Html(`<${tag}${attributes}>${text}</${tag}>`)

/** One file with everything in it, drawn already, so that it shows without its script too. */
export const filePage = (runs: ReadonlyArray<RunData>): string => {
  // JSON that cannot end the element it stands in.
  const data = JSON.stringify(runs).replaceAll("<", "\\u003c")
  return document(
    titleOf(runs),
    html`<meta http-equiv="Content-Security-Policy" content="${filePolicy()}" />${exact("style", style)}`,
    runs,
    html`${exact("script", data, ' type="application/json" id="data"')}${exact("script", script())}`,
    false
  )
}

/** The page that the server fills. */
export const livePage = (runs: ReadonlyArray<RunData>, title: string): string =>
  document(
    title,
    html`<link rel="icon" href="icon.svg" /><link rel="stylesheet" href="style.css" />`,
    runs,
    html`<script src="app.js" defer></script>`,
    true
  )
