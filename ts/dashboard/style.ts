/** The dashboard's looks over those of the reports: light and dark as the reader's system has it. */
import { style as base } from "../report/style.ts"

export const style = `${base}
:root { --c0: #2f6db5; --c1: #c4541a; --c2: #2c8a57; --c3: #9b4db0; --c4: #b28a00; --c5: #c13d6a; --c6: #2a8c96; --c7: #6b6f78; }
@media (prefers-color-scheme: dark) { :root { --c0: #6ea8ea; --c1: #f0945c; --c2: #63c08c; --c3: #cb8be0; --c4: #dcb84a; --c5: #ee7fa4; --c6: #5fc3cd; --c7: #a2a9b3; } }
${Array.from({ length: 8 }, (_, n) => `.c${n} { --c: var(--c${n}); }`).join(" ")}
body { max-width: 84rem; }
header.top { display: flex; flex-wrap: wrap; align-items: baseline; gap: .3rem 1.2rem; }
header.top h1 { margin: 0; }
h1 small { font-size: .95rem; font-weight: 400; color: var(--soft); margin-left: .5rem; }
#live { font-size: .85rem; color: var(--soft); } #live::before { content: ""; display: inline-block; width: .55rem; height: .55rem; border-radius: 50%; margin-right: .4rem; background: var(--mute); }
#live.on::before { background: var(--c2); } #live.off::before { background: var(--drop); }
.controls { display: none; flex-wrap: wrap; gap: .5rem 1.6rem; align-items: center; margin-left: auto; font-size: .88rem; color: var(--soft); }
.js .controls { display: flex; }
.controls label { cursor: pointer; }
.controls fieldset { border: 1px solid var(--line); border-radius: .45rem; padding: 0; margin: 0; display: flex; overflow: hidden; background: var(--card); }
.controls fieldset input { position: absolute; opacity: 0; pointer-events: none; }
.controls fieldset span { display: block; padding: .2rem .75rem; } .controls fieldset input:checked + span { background: var(--main); color: var(--card); } .controls fieldset input:focus-visible + span { outline: 2px solid var(--main); outline-offset: -3px; }
.controls input[type=range] { vertical-align: middle; width: 7rem; accent-color: var(--main); } input[type=checkbox] { accent-color: var(--c, var(--main)); }
section { padding: 1rem 1.2rem; }
section:empty, section[hidden] { display: none; }
.scroll { overflow-x: auto; }
.runs { font-size: .9rem; } .runs th, .runs td { padding: .35rem .9rem .35rem 0; border: 0; white-space: nowrap; vertical-align: top; }
.runs tbody tr + tr > * { border-top: 1px solid var(--line); }
.runs tbody th { min-width: 12rem; font-weight: 600; } .runs input { display: none; margin: 0 .5rem 0 0; } .js .runs input { display: inline-block; }
.runs thead th { font-size: .8rem; }
.runs.one td { font-size: 1rem; }
.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 50%; background: var(--c); margin-right: .45em; }
.state { font-weight: 400; font-size: .8rem; color: var(--soft); margin-left: .7rem; } .state.on { color: var(--c2); }
.progress { height: 3px; width: 100%; margin-top: .35rem; border-radius: 2px; } .progress rect { fill: var(--c); } .progress .rest { fill: color-mix(in srgb, var(--mute) 30%, transparent); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1.2rem; }
#charts { background: none; border: 0; padding: 0; }
.chart { margin: 0; padding: .9rem 1rem .5rem; background: var(--card); border: 1px solid var(--line); border-radius: .6rem; position: relative; min-width: 0; }
.chart.wide { grid-column: 1 / -1; }
.chart figcaption { display: flex; align-items: baseline; gap: .6rem; padding: 0 0 .35rem; color: var(--ink); font-size: .95rem; }
.chart .note { font-size: .8rem; } .last { margin-left: auto; font-variant-numeric: tabular-nums; font-weight: 600; font-size: 1.05rem; white-space: nowrap; } .last span { color: var(--c); margin-left: .9rem; }
.chart svg { overflow: visible; touch-action: pan-y; } .chart text { font-size: 11.5px; } .chart text.y { text-anchor: end; font-variant-numeric: tabular-nums; }
.chart line { stroke: color-mix(in srgb, var(--line) 75%, transparent); } .chart line.floor { stroke: var(--mute); }
polyline { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; } circle { fill: var(--c); }
.faint polyline { stroke-width: 1; opacity: .28; } .dashed polyline { stroke-dasharray: 5 4; stroke-width: 1.5; }
.chart line.cursor { stroke: var(--soft); stroke-dasharray: 2 3; } .chart circle.cursor { stroke: var(--card); stroke-width: 1.5; }
.tip { position: absolute; pointer-events: none; z-index: 2; background: var(--ink); color: var(--page); border-radius: .4rem; padding: .35rem .6rem; font-size: .8rem; line-height: 1.45; font-variant-numeric: tabular-nums; white-space: nowrap; box-shadow: 0 2px 10px #0003; }
.tip b { font-weight: 600; margin-left: .5rem; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1rem 2rem; }
.samples .sample { border: 0; border-top: 1px solid var(--line); padding: .7rem 0 0; margin: 0; }
.samples h3 { margin: 0 0 .3rem; font-size: 1rem; } .samples ul { list-style: none; margin: 0; padding: 0; } .samples li, .label { display: flex; gap: .8rem; margin: .2rem 0; }
.samples .step { flex: 0 0 3.6rem; text-align: right; color: var(--soft); font-size: .82rem; padding-top: .12rem; font-variant-numeric: tabular-nums; } .label bdi { color: var(--soft); }
bdi { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 0; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 8; overflow: hidden; }
tr.differs th, tr.differs code { color: var(--main); } code { font-size: .85rem; overflow-wrap: anywhere; }
.empty { color: var(--soft); padding: 3rem 0; text-align: center; }
@media (max-width: 40rem) { .chart .note { display: none; } .chart .last { font-size: .9rem; } .last span { margin-left: .5rem; } .chart.wide text { font-size: 22px; } .chart.wide polyline { stroke-width: 3; } }
@media print { .controls { display: none !important; } }
`
