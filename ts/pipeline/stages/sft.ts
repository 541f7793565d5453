/** Fine-tuning on answers: the whole model, or an adapter where the configuration has `lora`. */
import type { ConfigInputs } from "../../config/index.ts"
import type { Adapter, Artifact, Model, Pairs } from "../artifact.ts"
import { trainingStage } from "./training.ts"
import type { Weighted, Wired } from "./training.ts"

type Config = Omit<ConfigInputs["sft"], Wired | "model">

export interface SftOptions {
  readonly name?: string
  readonly model: Model
  readonly train: Weighted<Pairs>
  readonly valid?: Pairs
  readonly config?: Config
}

export function sft(options: SftOptions & { readonly config: { readonly lora: object } }): Adapter
export function sft(options: SftOptions & { readonly config?: { readonly lora?: null } }): Model
export function sft(options: SftOptions): Artifact<"model" | "adapter"> {
  const { name = "sft", model, train, valid, config = {} } = options
  const lora = config.lora !== undefined && config.lora !== null
  return trainingStage<"sft", Pairs>({
    kind: "sft",
    name,
    tokenizer: undefined,
    train,
    valid,
    model,
    config,
    makes: lora ? "adapter" : "model"
  }) as Artifact<"model" | "adapter">
}
