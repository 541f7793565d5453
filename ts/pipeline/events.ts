/** What a run tells while it goes. */
import * as Context from "effect/Context"

import type { TrainEvent } from "../native/index.ts"
import type { Manifest } from "./manifest.ts"

/** Why a stage runs. */
export type Reason = "new" | "damaged" | "rerun"

export type PipelineEvent =
  | {
      readonly type: "started"
      readonly stage: string
      readonly place: number
      readonly of: number
      readonly reason: Reason
    }
  | { readonly type: "damaged"; readonly stage: string; readonly message: string }
  | { readonly type: "training"; readonly stage: string; readonly event: TrainEvent }
  | { readonly type: "done"; readonly stage: string; readonly manifest: Manifest }
  | { readonly type: "kept"; readonly stage: string; readonly manifest: Manifest }

/** Who is told; nobody unless someone listens. */
export const PipelineListener = Context.Reference<(event: PipelineEvent) => void>(
  "chatlm/pipeline/PipelineListener",
  {
    defaultValue: () => () => {}
  }
)
