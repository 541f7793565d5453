/** Every verb by name. Each is loaded only when it is called, or all of them for help and completions. */
import type { Verb } from "./core/verb.ts"

export const verbs = {
  fetch: () => import("./fetch.ts").then(({ command }) => command),
  clean: () => import("./clean.ts").then(({ command }) => command),
  dedup: () => import("./dedup.ts").then(({ command }) => command),
  corpus: () => import("./corpus.ts").then(({ command }) => command),
  merge: () => import("./merge.ts").then(({ command }) => command),
  split: () => import("./split.ts").then(({ command }) => command),
  inspect: () => import("./inspect.ts").then(({ command }) => command),
  tokenizer: () => import("./tokenizer.ts").then(({ command }) => command),
  pretrain: () => import("./pretrain.ts").then(({ command }) => command),
  sft: () => import("./sft.ts").then(({ command }) => command),
  dpo: () => import("./dpo.ts").then(({ command }) => command),
  reject: () => import("./reject.ts").then(({ command }) => command),
  lora: () => import("./lora.ts").then(({ command }) => command),
  export: () => import("./export.ts").then(({ command }) => command),
  plan: () => import("./plan.ts").then(({ command }) => command),
  dashboard: () => import("./dashboard.ts").then(({ command }) => command),
  "verify-resume": () => import("./verify-resume.ts").then(({ command }) => command),
  generate: () => import("./generate.ts").then(({ command }) => command),
  chat: () => import("./chat.ts").then(({ command }) => command),
  serve: () => import("./serve.ts").then(({ command }) => command),
  eval: () => import("./eval.ts").then(({ command }) => command),
  bench: () => import("./bench.ts").then(({ command }) => command),
  report: () => import("./report.ts").then(({ command }) => command),
  run: () => import("./run.ts").then(({ command }) => command),
  runs: () => import("./runs.ts").then(({ command }) => command),
  doctor: () => import("./doctor.ts").then(({ command }) => command)
} as const satisfies Record<string, () => Promise<Verb>>

const isVerb = (name: string | undefined): name is keyof typeof verbs =>
  name !== undefined && Object.hasOwn(verbs, name)

/** The verbs that a command line needs: the one it names first, or all where it names none. */
export const verbsFor = async (args: ReadonlyArray<string>): Promise<ReadonlyArray<Verb>> => {
  const name = args[0]
  if (isVerb(name) && !args.some((arg) => arg.startsWith("--completions"))) return [await verbs[name]()]
  return Promise.all(Object.values(verbs).map((load) => load()))
}
