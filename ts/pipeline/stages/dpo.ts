/** Direct preference optimisation: the whole model, or an adapter where the configuration has `lora`. */
import type { ConfigInputs } from "../../config/index.ts"
import type { Adapter, Artifact, Model, PreferencePairs } from "../artifact.ts"
import { trainingStage } from "./training.ts"
import type { Weighted, Wired } from "./training.ts"

type Config = Omit<ConfigInputs["dpo"], Wired | "model">

export interface DpoOptions {
  readonly name?: string
  readonly model: Model
  readonly train: Weighted<PreferencePairs>
  readonly valid?: PreferencePairs
  readonly config?: Config
}

export function dpo(options: DpoOptions & { readonly config: { readonly lora: object } }): Adapter
export function dpo(options: DpoOptions & { readonly config?: { readonly lora?: null } }): Model
export function dpo(options: DpoOptions): Artifact<"model" | "adapter"> {
  const { name = "dpo", model, train, valid, config = {} } = options
  const lora = config.lora !== undefined && config.lora !== null
  return trainingStage<"dpo", PreferencePairs>({
    kind: "dpo",
    name,
    tokenizer: undefined,
    train,
    valid,
    model,
    config,
    makes: lora ? "adapter" : "model"
  }) as Artifact<"model" | "adapter">
}
