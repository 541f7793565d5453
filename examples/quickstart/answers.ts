/**
 * A stage of one's own: ten prompts drawn by the seed, answered by the model with its adapter and by the
 * merged one, which must say the same.
 */
import { createHash } from "node:crypto"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"

import { evaluateBleu, inspect, loadGenerator } from "chatlm"
import { fromPromise, only, stage } from "chatlm/pipeline"
import type { Adapter, Model, Pairs, Report } from "chatlm/pipeline"
import * as Effect from "effect/Effect"

export interface Answered {
  readonly prompt: string
  readonly label: string
  /** Of the merged model. */
  readonly response: string
  /** Of the model with its adapter. */
  readonly withAdapter: string
  readonly bleu4: number
}

export interface AnswersOptions {
  readonly model: Model
  readonly adapter: Adapter
  readonly merged: Model
  readonly rows: Pairs
  readonly seed: number
  readonly count: number
}

/** The same seed draws the same rows. */
const draw = <A>(rows: ReadonlyArray<A>, count: number, seed: number) =>
  rows
    .map((row, index) => ({ row, place: createHash("sha256").update(`${seed}/${index}`).digest("hex") }))
    .sort((a, b) => (a.place < b.place ? -1 : 1))
    .slice(0, count)
    .map(({ row }) => row)

const settings = { search: "greedy", maxNewTokens: 96 }

const ask = (model: string, adapter: string | undefined, prompts: ReadonlyArray<string>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const generator = yield* loadGenerator({
        model,
        dtype: "f32",
        ...(adapter === undefined ? {} : { adapter })
      })
      return (yield* generator.generate(prompts, settings, prompts.length)).map(({ response }) => response)
    })
  )

export const answers = ({ model, adapter, merged, rows, seed, count }: AnswersOptions): Report =>
  stage({
    name: "answers",
    version: 1,
    settings: { seed, count, ...settings },
    inputs: { model, adapter, merged, rows },
    outputs: { answers: { kind: "report", path: "answers.json" } },
    work: ({ inputs, outputs, scratch }) =>
      Effect.gen(function* () {
        const { samples } = yield* inspect({ inputs: [only(inputs.rows)], rows: 1_000_000 })
        const drawn = draw(samples, count, seed).map(({ prompt, response }) => ({
          prompt: String(prompt),
          label: String(response)
        }))
        const prompts = drawn.map(({ prompt }) => prompt)
        const withAdapter = yield* ask(only(inputs.model), only(inputs.adapter), prompts)
        const responses = yield* ask(only(inputs.merged), undefined, prompts)
        const answered: Array<Answered> = []
        for (const [index, { prompt, label }] of drawn.entries()) {
          const response = responses[index] ?? ""
          const predictions = join(scratch, `${index}.jsonl`)
          yield* fromPromise(() => writeFile(predictions, JSON.stringify({ prediction: response, label })))
          const { bleu4 } = yield* evaluateBleu({ predictions, inputs: [], batch: 1, maxNewTokens: 1 })
          answered.push({ prompt, label, response, withAdapter: withAdapter[index] ?? "", bleu4 })
        }
        yield* fromPromise(() => writeFile(outputs.answers, JSON.stringify(answered, null, 2)))
        return {
          figures: {
            recognisable: answered.filter(({ bleu4 }) => bleu4 >= 0.5).length,
            equal: answered.filter(({ response, withAdapter }) => response === withAdapter).length
          }
        }
      })
  }).answers
