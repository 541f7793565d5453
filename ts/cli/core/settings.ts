/** Settings of decoding that are changed in the middle of a conversation: `temperature 0.8`. Names are the flags'. */
import { earlyStoppings, presets, searches } from "../../generate/generate.ts"
import type { GenerationSettings } from "../../generate/generate.ts"

type Value = string | number | Array<string>
/** A value, or why it is none. */
type Parsed = { readonly value: Value } | { readonly wrong: string }

const number =
  (isRight: (value: number) => boolean, wanted: string) =>
  (text: string): Parsed => {
    const value = Number(text)
    return Number.isFinite(value) && isRight(value) ? { value } : { wrong: `must be ${wanted}, not ${text}` }
  }
const whole = (minimum: number) =>
  number((value) => Number.isInteger(value) && value >= minimum, `a whole number from ${minimum}`)
const oneOf =
  (names: ReadonlyArray<string>) =>
  (text: string): Parsed =>
    names.includes(text) ? { value: text } : { wrong: `must be one of ${names.join(", ")}, not ${text}` }

/** Bounds that hang on other settings are the core's to check. */
const known: Record<string, readonly [key: keyof GenerationSettings, parse: (text: string) => Parsed]> = {
  search: ["search", oneOf(searches)],
  preset: ["preset", oneOf(presets)],
  beams: ["beams", whole(1)],
  temperature: ["temperature", number((value) => value > 0, "a number above 0")],
  "top-k": ["topK", whole(0)],
  "top-p": ["topP", number((value) => value > 0 && value <= 1, "a number above 0 and at most 1")],
  "no-repeat-ngram": ["noRepeatNgram", whole(0)],
  "repetition-penalty": ["repetitionPenalty", number((value) => value > 0, "a number above 0")],
  "length-penalty": ["lengthPenalty", number(() => true, "a number")],
  "early-stopping": ["earlyStopping", oneOf(earlyStoppings)],
  "penalty-alpha": ["penaltyAlpha", number((value) => value >= 0 && value <= 1, "a number from 0 to 1")],
  "max-new-tokens": ["maxNewTokens", whole(1)],
  stop: ["stop", (text) => ({ value: [text] })],
  seed: ["seed", whole(0)]
}

export const settingNames = Object.keys(known)

/** The settings after `NAME VALUE`, or after `NAME` alone, which takes a setting back; else why not. */
export const changed = (
  settings: GenerationSettings,
  words: string
): { readonly settings: GenerationSettings } | { readonly wrong: string } => {
  const [, name = "", text = ""] = /^(\S*)\s*(.*)$/s.exec(words.trim()) ?? []
  const found = known[name]
  if (found === undefined) {
    const all = settingNames.join(", ")
    return { wrong: name === "" ? `name one of ${all}` : `there is no setting ${name}: ${all}` }
  }
  const [key, parse] = found
  const { [key]: _, ...others } = settings
  if (text === "") return { settings: others }
  const parsed = parse(text)
  return "wrong" in parsed
    ? { wrong: `${name} ${parsed.wrong}` }
    : { settings: { ...others, [key]: parsed.value } }
}

/** Rows `name`, `value` of what is set. */
export const settingRows = (settings: GenerationSettings): ReadonlyArray<readonly [string, string]> =>
  Object.entries(known).flatMap(([name, [key]]) => {
    const value = settings[key]
    return value === undefined ? [] : [[name, String(value)] as const]
  })
