/** The page's looks: one column on a phone, light and dark as the reader's system has it. */
export const style = `
:root { color-scheme: light dark; --page: #fcfcfa; --card: #fff; --ink: #1d1f23; --soft: #5a6068; --line: #e2e2dc; --main: #2f6db5; --drop: #c4541a; --mute: #b9bec6; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1c1f25; --ink: #e8e9eb; --soft: #a2a9b3; --line: #31363f; --main: #6ea8ea; --drop: #f0945c; --mute: #565d68; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem clamp(.8rem, 3vw, 2.5rem) 4rem; max-width: 70rem; background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, "PingFang SC", "Noto Sans CJK SC", "Microsoft YaHei", sans-serif; }
h1 { font-size: 1.6rem; margin: .4rem 0 .2rem; }
h2 { font-size: 1.3rem; margin: 0 0 .2rem; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
p { margin: .3rem 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: clamp(.9rem, 2.5vw, 1.6rem); margin: 1.2rem 0; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1rem; list-style: none; padding: 0; }
a { color: var(--main); }
.note, caption, figcaption, summary { color: var(--soft); font-size: .9rem; }
caption, figcaption { text-align: left; padding-bottom: .3rem; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: .8rem 0; }
.facts div { min-width: 6rem; }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .28rem .7rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 500; overflow-wrap: break-word; min-width: 6.5rem; }
th.number, td.number { font-variant-numeric: tabular-nums; white-space: nowrap; text-align: right; }
td:has(> .bar) { width: 45%; min-width: 7rem; vertical-align: middle; }
.bar { display: flex; width: 100%; height: .85rem; border-radius: .2rem; overflow: hidden; background: color-mix(in srgb, var(--mute) 25%, transparent); }
.bar i { display: block; height: 100%; min-width: 0; }
.main { background: var(--main); fill: var(--main); } .drop { background: var(--drop); fill: var(--drop); } .mute { background: var(--mute); fill: var(--mute); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: .15em; margin: 0 .3em 0 .8em; }
figure { margin: .8rem 0; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); text-anchor: middle; }
svg line { stroke: var(--line); }
.hit { fill: transparent; } g:hover .hit { fill: color-mix(in srgb, var(--mute) 20%, transparent); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: .5rem 2rem; }
.chips { display: flex; flex-wrap: wrap; gap: .35rem; list-style: none; padding: 0; margin: .4rem 0; }
.chips li { border: 1px solid var(--line); border-radius: .4rem; padding: .1rem .5rem; }
.chips b { font-size: 1.1rem; font-weight: 500; margin-right: .3rem; } .chips span { color: var(--soft); font-size: .8rem; font-variant-numeric: tabular-nums; }
details { margin: .3rem 0; } summary { cursor: pointer; padding: .15rem 0; }
.sample { border-left: 3px solid var(--drop); padding: .1rem 0 .1rem .8rem; margin: .7rem 0; }
.sample.kept { border-color: var(--main); }
.sample dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: .2rem 0; }
.sample dt { color: var(--soft); font-size: .85rem; } .sample dd { margin: 0; } .sample bdi { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 34rem) { .sample dl { grid-template-columns: 1fr; } th, td { padding-right: .5rem; } td:has(> .bar) { width: 25%; min-width: 4.5rem; } }
@media print { body { max-width: none; } section { break-inside: avoid-page; } }
`
