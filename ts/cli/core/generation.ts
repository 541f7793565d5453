/** The flags of decoding, shared by `generate`, `chat` and `serve`. */
import * as Flag from "effect/cli/Flag"
import type * as Option from "effect/Option"

import { earlyStoppings, presets, searches } from "../../generate/generate.ts"
import type { GenerationSettings } from "../../generate/generate.ts"
import * as Flags from "./flags.ts"

const finite = (name: string, description: string) =>
  Flag.Finite(name).pipe(Flag.withDescription(description), Flag.withMetavar("X"), Flag.optional)

const integer = (name: string, description: string, minimum = 0) =>
  Flags.integer(name, description, minimum).pipe(Flag.optional)

const oneOf = <const Names extends ReadonlyArray<string>>(name: string, names: Names, description: string) =>
  Flag.Literals(name, names).pipe(Flag.withDescription(description), Flag.optional)

/** A flag beats the preset, which beats the model's generation_config.json, which beats the defaults named here. */
export const generationFlags = {
  search: oneOf("search", searches, "How answers are looked for (default: what the model says, else greedy)"),
  preset: oneOf("preset", presets, "The reference program's settings: 5 drawn beams, or sampling"),
  beams: integer("beams", "Answers kept side by side (default 5 with --search beam)", 1),
  temperature: finite("temperature", "Drawing: above 1 livelier, below 1 surer (default 1)"),
  topK: integer("top-k", "Drawing: only the K likeliest tokens; 0 is all (default). Contrastive: candidates"),
  topP: finite("top-p", "Drawing: only the likeliest tokens that make up this probability (default 1)"),
  noRepeatNgram: integer("no-repeat-ngram", "No run of N tokens twice; 0 is off (default)"),
  repetitionPenalty: finite(
    "repetition-penalty",
    "Above 1 discourages tokens that are there already (default 1)"
  ),
  lengthPenalty: finite(
    "length-penalty",
    "Beams: above 0 favours long answers, below 0 short ones (default 1)"
  ),
  earlyStopping: oneOf(
    "early-stopping",
    earlyStoppings,
    "Beams: end with as many answers as beams (true), once they look best (false, default) or are (never)"
  ),
  penaltyAlpha: finite(
    "penalty-alpha",
    "Contrastive: the weight of being unlike what is there (default 0.6)"
  ),
  maxNewTokens: integer("max-new-tokens", "The longest answer in tokens (default 320)", 1),
  stop: Flags.text("stop", "Answers end before this text; may be given several times").pipe(Flag.atLeast(0))
} as const

/** Answers a prompt, for verbs that print all of them. */
export const answersFlag = integer(
  "n-best",
  "Answers a prompt: the best beams, or that many drawn ones (default 1)",
  1
)

type Value<F> = F extends Flag.Flag<infer A> ? A : never
type Values = { readonly [Key in keyof typeof generationFlags]: Value<(typeof generationFlags)[Key]> }

/** Only what was given: the rest comes from the model's folder. */
export const settingsOf = (flags: Values, seed: Option.Option<number>): GenerationSettings => ({
  ...Flags.given("search", flags.search),
  ...Flags.given("preset", flags.preset),
  ...Flags.given("beams", flags.beams),
  ...Flags.given("temperature", flags.temperature),
  ...Flags.given("topK", flags.topK),
  ...Flags.given("topP", flags.topP),
  ...Flags.given("noRepeatNgram", flags.noRepeatNgram),
  ...Flags.given("repetitionPenalty", flags.repetitionPenalty),
  ...Flags.given("lengthPenalty", flags.lengthPenalty),
  ...Flags.given("earlyStopping", flags.earlyStopping),
  ...Flags.given("penaltyAlpha", flags.penaltyAlpha),
  ...Flags.given("maxNewTokens", flags.maxNewTokens),
  ...(flags.stop.length === 0 ? {} : { stop: [...flags.stop] }),
  ...Flags.given("seed", seed)
})
