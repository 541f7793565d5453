/**
 * Recipes by name, for `preset` in a configuration: keys that stand under what the user writes and over the defaults.
 * The two of the reference program are as its code runs, not as its README says (docs/recipes.md).
 */
import type { RunKind } from "../native/index.ts"
import type { ConfigInputs } from "./schema.ts"

type Presets = { readonly [Kind in RunKind]: Readonly<Record<string, ConfigInputs[Kind]>> }

export const presets: Presets = {
  pretrain: {
    /** Ours, chosen by experiment on the published sample: AdamW whose steps are relative to the weights' size. */
    chatlm: {
      optimizer: "adamw",
      scaleParameter: true,
      learningRate: 0.02,
      weightDecay: 0,
      schedule: "cosine",
      warmupSteps: 1000,
      batchSize: 16,
      clip: 1,
      maxLength: 256,
      precision: "bf16"
    },
    /** The reference's own trainer: Adafactor with its own steps, so that no learning rate or schedule counts. */
    "chatlm-trainer": {
      optimizer: "adafactor",
      relativeStep: true,
      scaleParameter: true,
      weightDecay: 0,
      schedule: "constant",
      epochs: 8,
      batchSize: 16,
      gradientAccumulation: 8,
      clip: 1,
      maxLength: 256,
      precision: "bf16"
    },
    /** The reference's script around transformers' Seq2SeqTrainer: Adafactor, linear after 1024 steps of warm-up. */
    "chatlm-hf": {
      optimizer: "adafactor",
      learningRate: 1e-4,
      weightDecay: 0,
      schedule: "linear",
      warmupSteps: 1024,
      epochs: 8,
      batchSize: 16,
      gradientAccumulation: 8,
      clip: 1,
      maxLength: 256,
      precision: "bf16"
    }
  },
  sft: {},
  dpo: {}
}
