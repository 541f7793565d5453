/** The library: configurations, nouns, the core as a service, errors. Pipelines are in `chatlm/pipeline`. */
export * from "./bench/bench.ts"
export * from "./checkpoint/checkpoint.ts"
export * from "./clean/clean.ts"
export * from "./config/index.ts"
export * from "./dashboard/dashboard.ts"
export * from "./dataset/dataset.ts"
export * from "./dataset/rows.ts"
export * from "./dedup/dedup.ts"
export * from "./evaluation/evaluation.ts"
export * from "./fetch/fetch.ts"
export * from "./generate/generate.ts"
export * from "./http/embed.ts"
export {
  BugError,
  CancelledError,
  ChosenDevice,
  EnvironmentError,
  exitStatus,
  InputError,
  isChatlmError,
  makeError,
  Native,
  ProgressReporter,
  toEnvelope,
  UsageError
} from "./native/index.ts"
export type { ChatlmError, ErrorCode, ErrorFields, NativeService, Progress } from "./native/index.ts"
export * from "./report/report.ts"
export * from "./services/generation.ts"
export * from "./services/training.ts"
export * from "./tokenizer/report.ts"
export * from "./tokenizer/tokenizer.ts"
export { plan } from "./train/plan.ts"
export type { PlanOptions, PlanReport } from "./train/plan.ts"
export * from "./train/train.ts"
