/**
 * The training configurations as schemas: the one source of keys, defaults and ranges. What comes out
 * of `resolve.ts` is what the core reads, whole; the core has no defaults of its own.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** A key with a default, checked like a given value. */
const key = <S extends Schema.Top>(schema: S, value: S["Type"]) =>
  schema.pipe(Schema.withDecodingDefaultTypeKey(Effect.succeed(value)))

const count = (minimum: number) => Schema.Int.check(Schema.isGreaterThanOrEqualTo(minimum))
const above = (minimum: number) => Schema.Finite.check(Schema.isGreaterThan(minimum))
const notNegative = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))
const share = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1, exclusiveMaximum: true }))

/** One set of rows. Weight 1 reads each row once an epoch, 0.5 a seeded half, 2 twice. */
export const TrainSet = Schema.Struct({
  paths: Schema.NonEmptyArray(Schema.NonEmptyString),
  weight: key(above(0), 1)
})

/** PEFT's way to name layers: a list of names or their ends, or a pattern over the whole name. */
const layerNames = Schema.Union([Schema.NonEmptyString, Schema.NonEmptyArray(Schema.NonEmptyString)])

/** A LoRA adapter; keys are PEFT's (docs/lora.md). Those without a default are left out where not given. */
export const Lora = Schema.Struct({
  r: key(count(1), 16),
  alpha: key(above(0), 16),
  dropout: key(share, 0.1),
  /** `target_modules`: a list of names or their ends, a pattern over whole names, or `all-linear`. */
  targets: key(layerNames, ["q", "v"]),
  bias: key(Schema.Literals(["none", "all", "lora_only"]), "none"),
  excludeModules: Schema.optionalKey(layerNames),
  /** Numbers of the blocks that get an adapter. */
  layersToTransform: Schema.optionalKey(Schema.NonEmptyArray(count(0))),
  /** What stands before a block's number in a name. */
  layersPattern: Schema.optionalKey(layerNames),
  /** Patterns over the end of a name, and the rank of the layers that match; the first one counts. */
  rankPattern: Schema.optionalKey(Schema.Record(Schema.String, count(1))),
  alphaPattern: Schema.optionalKey(Schema.Record(Schema.String, Schema.Finite)),
  /** Scales by alpha / √r instead of alpha / r. */
  useRslora: Schema.optionalKey(Schema.Boolean),
  useDora: Schema.optionalKey(Schema.Boolean),
  /** `true` as PEFT begins, `"gaussian"`, or `false`: B random too, for tests. */
  initLoraWeights: Schema.optionalKey(Schema.Union([Schema.Boolean, Schema.Literal("gaussian")]))
})

interface Defaults {
  readonly model: string | null
  readonly tokenizer: string
  readonly train: ReadonlyArray<string>
  readonly out: string
  readonly epochs: number
  readonly batchSize: number
  readonly gradientAccumulation: number
  readonly learningRate: number
  readonly schedule: "constant" | "linear" | "cosine" | "inverse-sqrt"
  readonly warmupSteps: number
  readonly maxLength: number
  readonly dropout?: number
}

/** The keys of all three kinds, in the order in which they are printed. */
const common = (defaults: Defaults) => ({
  /** A folder, a T5 configuration, or null: the 0.2 B preset from random weights. */
  model: key(
    Schema.NullOr(Schema.Union([Schema.NonEmptyString, Schema.Record(Schema.String, Schema.Unknown)])),
    defaults.model
  ),
  /** Left out, the model's folder where there is one. */
  tokenizer: key(Schema.NonEmptyString, defaults.tokenizer),
  train: key(Schema.NonEmptyArray(TrainSet), [{ paths: [...defaults.train] as [string], weight: 1 }]),
  valid: key(Schema.NullOr(Schema.NonEmptyString), null),
  out: key(Schema.NonEmptyString, defaults.out),
  epochs: key(count(1), defaults.epochs),
  batchSize: key(count(1), defaults.batchSize),
  gradientAccumulation: key(count(1), defaults.gradientAccumulation),
  learningRate: key(above(0), defaults.learningRate),
  schedule: key(Schema.Literals(["cosine", "linear", "constant", "inverse-sqrt"]), defaults.schedule),
  warmupSteps: key(count(0), defaults.warmupSteps),
  optimizer: key(Schema.Literals(["adamw", "adafactor"]), "adamw"),
  weightDecay: key(notNegative, 0.01),
  adamBeta1: key(share, 0.9),
  adamBeta2: key(share, 0.999),
  adamEpsilon: key(above(0), 1e-8),
  /** The learning rate is multiplied by each weight's root mean square (at least 0.001): AdamW as nanoT5 scales it. */
  scaleParameter: key(Schema.Boolean, false),
  /** Adafactor takes `min(0.01, 1/sqrt(step))` instead of the schedule's rate. */
  relativeStep: key(Schema.Boolean, false),
  /** `relativeStep` begins at a millionth a step. */
  warmupInit: key(Schema.Boolean, false),
  /** Of the matrix products; weights, sums, norms, softmax and loss are f32 in any case. */
  precision: key(Schema.Literals(["f32", "bf16", "f16"]), "f32"),
  /** Tokens of each text, `[EOS]` included; what is longer is cut. */
  maxLength: key(count(2), defaults.maxLength),
  /**
   * Batches of rows of like lengths, themselves in any order. Nothing is padded here in any case, so it saves no
   * time; it makes steps of more equal rows.
   */
  groupByLength: key(Schema.Boolean, false),
  saveEvery: key(count(1), 1000),
  /** Checkpoints that stay. */
  keep: key(count(1), 3),
  /**
   * Copies what a checkpoint holds (as much memory as weights and optimizer state) and writes it while training goes
   * on; where memory is short, and with `false`, training waits.
   */
  saveInBackground: key(Schema.Boolean, true),
  /** Steps between evaluations; 0 evaluates at the end of each epoch. */
  evalEvery: key(count(0), 0),
  /** Rows of `valid` that an evaluation reads. */
  evalRows: key(count(1), 1000),
  logEvery: key(count(1), 10),
  maxSteps: key(Schema.NullOr(count(1)), null),
  dropout: key(share, defaults.dropout ?? 0.1),
  /** The largest gradient norm; 0 clips nothing, and updates each weight as soon as its gradient is complete. */
  clip: key(notNegative, 1),
  /** Compute activations again in the backward pass instead of keeping them: less memory, more time. */
  recompute: key(Schema.Boolean, false),
  /** The processor lays rows end to end in any case; nothing is padded there. */
  packing: key(Schema.Boolean, false),
  /** Evaluations without a better loss after which the run ends. */
  earlyStop: key(Schema.NullOr(count(1)), null),
  labelSmoothing: key(share, 0),
  onNaN: key(Schema.Literals(["stop", "skip"]), "stop"),
  workers: key(count(1), 1),
  seed: key(count(0), 23_333),
  /** Answers written to `samples.jsonl` at each evaluation. */
  samples: key(count(0), 3),
  /** Rows of `valid` that are answered at each evaluation for `eval_bleu4`; 0: none. */
  bleuRows: key(count(0), 32),
  /** Rows of `valid` that are in `train` too: told (`warn`), refused (`stop`) or not looked for (`off`). */
  contamination: key(Schema.Literals(["warn", "stop", "off"]), "warn"),
  /** Null: all. */
  threads: key(Schema.NullOr(count(1)), null)
})

export const PretrainConfig = Schema.Struct(
  common({
    model: null,
    tokenizer: "model_save/tokenizer",
    train: ["data/train.parquet"],
    out: "runs/pretrain",
    epochs: 1,
    batchSize: 16,
    gradientAccumulation: 1,
    learningRate: 1e-4,
    schedule: "cosine",
    warmupSteps: 0,
    maxLength: 256
  })
)

export const SftConfig = Schema.Struct({
  ...common({
    model: "runs/pretrain/best",
    tokenizer: "runs/pretrain/best",
    train: ["data/sft.parquet"],
    out: "runs/sft",
    epochs: 4,
    batchSize: 12,
    gradientAccumulation: 4,
    learningRate: 1e-5,
    schedule: "linear",
    warmupSteps: 100,
    maxLength: 384
  }),
  /** `embedding`, `encoder`, `decoder` or the beginning of parameter names. */
  freeze: key(Schema.Array(Schema.NonEmptyString), ["embedding", "encoder"]),
  lora: key(Schema.NullOr(Lora), null)
})

export const DpoConfig = Schema.Struct({
  ...common({
    model: "runs/sft/best",
    tokenizer: "runs/sft/best",
    train: ["data/dpo.parquet"],
    out: "runs/dpo",
    epochs: 2,
    batchSize: 4,
    gradientAccumulation: 8,
    learningRate: 1e-5,
    schedule: "linear",
    warmupSteps: 100,
    maxLength: 512,
    // TRL's `disable_dropout`: policy and reference are compared without noise.
    dropout: 0
  }),
  /** How hard the policy is held to the reference. */
  beta: key(above(0), 0.1),
  loss: key(Schema.Literals(["sigmoid", "ipo", "simpo", "orpo"]), "sigmoid"),
  /** Of `simpo`: the margin it asks for. */
  simpoGamma: key(notNegative, 0.5),
  /** Of `simpo`: the weight of the chosen answers' cross-entropy, which is added. TRL's CPOConfig has 1. */
  cpoAlpha: key(notNegative, 0),
  /** Of `sigmoid` and `ipo`: the same; null adds none. */
  rpoAlpha: key(Schema.NullOr(notNegative), null),
  lora: key(Schema.NullOr(Lora), null)
})

export const schemas = { pretrain: PretrainConfig, sft: SftConfig, dpo: DpoConfig } as const

export type PretrainConfig = typeof PretrainConfig.Type
export type SftConfig = typeof SftConfig.Type
export type DpoConfig = typeof DpoConfig.Type

export interface Configs {
  readonly pretrain: PretrainConfig
  readonly sft: SftConfig
  readonly dpo: DpoConfig
}

/** `train` as it may be written: a path, a list, or sets with weights. */
export type TrainInput =
  | string
  | ReadonlyArray<
      | string
      | { readonly path: string; readonly weight?: number }
      | { readonly paths: ReadonlyArray<string>; readonly weight?: number }
    >

type Input<Encoded> = Partial<Omit<Encoded, "train">> & {
  readonly train?: TrainInput
  readonly preset?: string
}

/** What a user writes: every key may be left out; `preset` names a recipe that stands under the others. */
export interface ConfigInputs {
  readonly pretrain: Input<typeof PretrainConfig.Encoded>
  readonly sft: Input<typeof SftConfig.Encoded>
  readonly dpo: Input<typeof DpoConfig.Encoded>
}
