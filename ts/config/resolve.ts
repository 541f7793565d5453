/**
 * From what a user wrote to the whole configuration: unknown keys are refused with the nearest known one,
 * short forms are spelled out, defaults filled in, ranges checked.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"

import { makeError } from "../native/index.ts"
import type { InputError, RunKind } from "../native/index.ts"
import { nearest } from "./nearest.ts"
import { presets } from "./presets.ts"
import type { ConfigInputs, Configs } from "./schema.ts"
import { Lora, schemas } from "./schema.ts"

type Dictionary = Record<string, unknown>

export const isDictionary = (value: unknown): value is Dictionary =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** The keys of a T5 configuration as Hugging Face writes them, with those that its files carry along. */
const t5Keys = [
  "vocab_size",
  "d_model",
  "d_kv",
  "d_ff",
  "num_layers",
  "num_decoder_layers",
  "num_heads",
  "relative_attention_num_buckets",
  "relative_attention_max_distance",
  "dropout_rate",
  "classifier_dropout",
  "layer_norm_epsilon",
  "initializer_factor",
  "feed_forward_proj",
  "is_encoder_decoder",
  "use_cache",
  "pad_token_id",
  "eos_token_id",
  "bos_token_id",
  "decoder_start_token_id",
  "tie_word_embeddings",
  "scale_decoder_outputs",
  "is_decoder",
  "is_gated_act",
  "dense_act_fn",
  "architectures",
  "model_type",
  "torch_dtype",
  "dtype",
  "transformers_version",
  "n_positions",
  "output_past",
  "task_specific_params",
  "_name_or_path",
  "auto_map"
]

const unknownKey = (path: string, key: string, known: ReadonlyArray<string>, file: string | undefined) => {
  const suggestion = nearest(key, known)
  const name = path === "" ? key : `${path}.${key}`
  return makeError(
    "CONFIG_INVALID",
    `unknown configuration key "${name}"${file === undefined ? "" : ` in ${file}`}`,
    suggestion === undefined
      ? "chatlm VERB --print-config shows every key"
      : `did you mean "${path === "" ? suggestion : `${path}.${suggestion}`}"? --print-config shows every key`,
    {
      key: name,
      ...(suggestion === undefined ? {} : { nearest: suggestion }),
      ...(file === undefined ? {} : { file })
    }
  )
}

const checkKeys = (
  value: unknown,
  path: string,
  known: ReadonlyArray<string>,
  file: string | undefined
): InputError | undefined => {
  if (!isDictionary(value)) return undefined
  const key = Object.keys(value).find((key) => !known.includes(key))
  return key === undefined ? undefined : unknownKey(path, key, known, file)
}

/** Paths beside each other form one set; an entry with a weight is a set of its own. */
const spellTrain = (train: unknown): unknown => {
  if (typeof train === "string") return [{ paths: [train], weight: 1 }]
  if (!Array.isArray(train)) return isDictionary(train) ? spellTrain([train]) : train
  const sets: Array<unknown> = []
  let plain: Array<string> | undefined
  for (const entry of train) {
    if (typeof entry === "string") {
      if (plain === undefined) sets.push({ paths: (plain = []), weight: 1 })
      plain.push(entry)
      continue
    }
    plain = undefined
    if (isDictionary(entry) && "path" in entry) {
      const { path, paths, ...rest } = entry
      sets.push({ paths: [path, ...(Array.isArray(paths) ? paths : [])], ...rest })
    } else {
      sets.push(
        isDictionary(entry) && typeof entry.paths === "string" ? { ...entry, paths: [entry.paths] } : entry
      )
    }
  }
  return sets
}

const issues = SchemaIssue.makeFormatterStandardSchemaV1()

const pathText = (path: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined): string =>
  (path ?? [])
    .map((part) => (typeof part === "object" ? part.key : part))
    .map((part, index) =>
      typeof part === "number" ? `[${part}]` : `${index === 0 ? "" : "."}${String(part)}`
    )
    .join("")

/** The whole configuration of a kind from what was written. */
export const resolveConfig = <Kind extends RunKind>(
  kind: Kind,
  input: ConfigInputs[Kind] | unknown,
  file?: string
): Effect.Effect<Configs[Kind], InputError> =>
  Effect.gen(function* () {
    const invalid = (message: string, key: string) =>
      makeError(
        "CONFIG_INVALID",
        `${message}${file === undefined ? "" : ` in ${file}`}`,
        `correct the value; chatlm ${kind} --print-config shows a whole configuration`,
        { key, ...(file === undefined ? {} : { file }) }
      )
    if (!isDictionary(input)) {
      return yield* Effect.fail(invalid("the configuration is not an object", ""))
    }
    const schema = schemas[kind]
    const order = Object.keys(schema.fields)
    // A key that is undefined (from a .ts module) counts as left out.
    const { preset, ...written }: Dictionary = Object.fromEntries(
      Object.entries(input).filter(([, value]) => value !== undefined)
    )
    const recipe = preset === undefined || preset === null ? {} : presets[kind][String(preset)]
    if (recipe === undefined) {
      const known = Object.keys(presets[kind])
      const names = known.length === 0 ? `${kind} has none` : `known: ${known.join(", ")}`
      return yield* Effect.fail(invalid(`no preset "${String(preset)}" (${names})`, "preset"))
    }
    const given: Dictionary = { ...recipe, ...written }
    const wrong =
      checkKeys(given, "", [...order, "preset"], file) ??
      checkKeys(given.lora, "lora", Object.keys(Lora.fields), file) ??
      checkKeys(given.model, "model", t5Keys, file) ??
      (Array.isArray(given.train) ? given.train : [given.train])
        .map((entry, index) => checkKeys(entry, `train[${index}]`, ["path", "paths", "weight"], file))
        .find((error) => error !== undefined)
    if (wrong !== undefined) return yield* Effect.fail(wrong)

    if ("train" in given) given.train = spellTrain(given.train)
    // The tokenizer of a model lies in its folder.
    if (!("tokenizer" in given) && typeof given.model === "string") given.tokenizer = given.model
    // An adapter leaves the base alone as it is; freezing on top would take its encoder half away.
    if (kind === "sft" && !("freeze" in given) && isDictionary(given.lora)) given.freeze = []

    const decoded = yield* Schema.decodeUnknownEffect(schema as unknown as Schema.Decoder<Configs[Kind]>, {
      onExcessProperty: "error",
      reportInput: true
    })(given).pipe(
      Effect.mapError((error) => {
        const issue = issues(error.issue).issues[0]
        const key = pathText(issue?.path)
        return invalid(`configuration key "${key}": ${issue?.message.split("\n")[0] ?? "invalid"}`, key)
      })
    )
    return Object.fromEntries(
      order.map((name) => [name, (decoded as Dictionary)[name]])
    ) as unknown as Configs[Kind]
  })

/** Which kind a written configuration is for, told by the keys that only one kind has. */
export const guessKind = (input: unknown): RunKind => {
  if (!isDictionary(input)) return "pretrain"
  if ("beta" in input || "loss" in input) return "dpo"
  return "freeze" in input || "lora" in input ? "sft" : "pretrain"
}
