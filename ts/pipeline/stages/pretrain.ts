/** A model from random weights, or on from another. */
import type { ConfigInputs } from "../../config/index.ts"
import type { Artifact, Model, Pairs, Tokenizer } from "../artifact.ts"
import { trainingStage } from "./training.ts"
import type { Weighted, Wired } from "./training.ts"

export type T5Config = Readonly<Record<string, unknown>>

export interface PretrainOptions {
  readonly name?: string
  readonly tokenizer: Tokenizer
  readonly train: Weighted<Pairs>
  readonly valid?: Pairs
  /** A model to go on from. */
  readonly from?: Model
  /** `model` is a T5 configuration; left out, the 0.2 B preset. */
  readonly config?: Omit<ConfigInputs["pretrain"], Wired | "model"> & { readonly model?: T5Config }
}

export const pretrain = (options: PretrainOptions): Model => {
  const { name = "pretrain", tokenizer, train, valid, from, config = {} } = options
  return trainingStage<"pretrain", Pairs>({
    kind: "pretrain",
    name,
    tokenizer,
    train,
    valid,
    model: from,
    config,
    makes: "model"
  }) as Artifact<"model">
}

export interface UntrainedOptions {
  readonly name?: string
  readonly tokenizer: Tokenizer
  readonly train: Pairs
  readonly config?: Pick<NonNullable<PretrainOptions["config"]>, "model" | "seed">
}

/**
 * The model as it is before the first step, to measure what training has changed. It is trained for one
 * step at a rate so small that no weight of 32 bits changes by it.
 */
export const untrained = (options: UntrainedOptions): Model => {
  const { name = "untrained", tokenizer, train, config = {} } = options
  return pretrain({
    name,
    tokenizer,
    train,
    config: { ...config, maxSteps: 1, batchSize: 1, learningRate: 1e-30, weightDecay: 0 }
  })
}
