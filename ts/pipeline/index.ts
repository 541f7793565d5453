/** Pipelines of typed stages with results that are kept by their content; `chatlm run` runs them. */
export { given } from "./artifact.ts"
export type {
  Adapter,
  Artifact,
  Kind,
  Model,
  Pairs,
  PreferencePairs,
  Report,
  Rows,
  Tokenizer
} from "./artifact.ts"
export { PipelineListener } from "./events.ts"
export type { PipelineEvent } from "./events.ts"
export { Ledger } from "./ledger.ts"
export type { LedgerService } from "./ledger.ts"
export type { Manifest } from "./manifest.ts"
export { loadPipeline } from "./load.ts"
export { isPipeline, pipeline } from "./pipeline.ts"
export type { Pipeline } from "./pipeline.ts"
export { collectGarbage, findRecord, listRecords } from "./records.ts"
export type { RunRecord } from "./records.ts"
export { runPipeline } from "./runner.ts"
export type { RunOptions, RunResult, StageResult } from "./runner.ts"
export { fromPromise, only, stage } from "./stage.ts"
export type { Json, JsonObject, Stage, WorkContext, WorkReport } from "./stage.ts"
export { clean } from "./stages/clean.ts"
export { dedup } from "./stages/dedup.ts"
export { dpo } from "./stages/dpo.ts"
export { evaluate } from "./stages/evaluate.ts"
export { exportModel } from "./stages/export.ts"
export { fetch } from "./stages/fetch.ts"
export { merge } from "./stages/merge.ts"
export { pretrain, untrained } from "./stages/pretrain.ts"
export { reject } from "./stages/reject.ts"
export { reportOf, reportPage } from "./stages/report.ts"
export { sft } from "./stages/sft.ts"
export { source } from "./stages/source.ts"
export { split } from "./stages/split.ts"
export { extend, fromWords, importTokenizer, retrain, tokenizer } from "./stages/tokenizer.ts"
export { corpus, inspect, mergeRows, through } from "./stages/tables.ts"
