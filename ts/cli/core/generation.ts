/** The flags of decoding, shared by `generate`, `chat` and `serve`. */
import * as Flag from "effect/cli/Flag"
import type * as Option from "effect/Option"

import { searches } from "../../generate/generate.ts"
import type { GenerationSettings } from "../../generate/generate.ts"
import * as Flags from "./flags.ts"

const finite = (name: string, description: string) =>
  Flag.Finite(name).pipe(Flag.withDescription(description), Flag.withMetavar("X"), Flag.optional)

export const generationFlags = {
  search: Flag.Literals("search", searches).pipe(
    Flag.withDescription("How the next token is chosen (default: what the model says, else greedy)"),
    Flag.optional
  ),
  temperature: finite("temperature", "Above 1 livelier, below 1 surer"),
  topK: Flags.integer("top-k", "Only the K likeliest tokens; 0 is all").pipe(Flag.optional),
  topP: finite("top-p", "Only the likeliest tokens that make up this probability"),
  repetitionPenalty: finite("repetition-penalty", "Above 1 discourages tokens that are there already"),
  noRepeatNgram: Flags.integer("no-repeat-ngram", "No run of N tokens twice; 0 is off").pipe(Flag.optional),
  maxNewTokens: Flags.integer("max-new-tokens", "The longest answer in tokens (default 320)", 1).pipe(
    Flag.optional
  )
} as const

type Values = {
  readonly search: Option.Option<string>
} & {
  readonly [
    Key in "temperature" | "topK" | "topP" | "repetitionPenalty" | "noRepeatNgram" | "maxNewTokens"
  ]: Option.Option<number>
}

/** Only what was given: the rest comes from the model's folder. */
export const settingsOf = (flags: Values, seed: Option.Option<number>): GenerationSettings => ({
  ...Flags.given("search", flags.search),
  ...Flags.given("temperature", flags.temperature),
  ...Flags.given("topK", flags.topK),
  ...Flags.given("topP", flags.topP),
  ...Flags.given("repetitionPenalty", flags.repetitionPenalty),
  ...Flags.given("noRepeatNgram", flags.noRepeatNgram),
  ...Flags.given("maxNewTokens", flags.maxNewTokens),
  ...Flags.given("seed", seed)
})
