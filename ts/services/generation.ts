/** Answers as a service: `Generator` is a model that is loaded with its layer and freed with it. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Stream from "effect/Stream"

import { localFolder } from "../fetch/fetch.ts"
import { defaultBatch, loadGenerator } from "../generate/generate.ts"
import type {
  Answer,
  GenerationSettings,
  GeneratorInfo,
  GeneratorOptions,
  TextPiece
} from "../generate/generate.ts"
import type { ChatlmError, Native } from "../native/index.ts"

/** How several prompts are answered. */
export interface GenerateOptions extends GenerationSettings {
  /** Prompts that are answered together; 16 where left out. */
  readonly batch?: number
}

export class Generator extends Context.Service<
  Generator,
  {
    readonly info: GeneratorInfo
    /** The answers in the order of the prompts, `answers` of them to each. An interruption ends within a step. */
    readonly generate: (
      prompts: ReadonlyArray<string>,
      options?: GenerateOptions
    ) => Effect.Effect<ReadonlyArray<Answer>, ChatlmError>
    /** An answer as it is written, the last piece with `done` and why it ended. A reader that stops ends it. */
    readonly stream: (prompt: string, settings?: GenerationSettings) => Stream.Stream<TextPiece, ChatlmError>
  }
>()("chatlm/generate/Generator") {
  /** Of a model folder, or of `hf:owner/name`, which is fetched. */
  static readonly layer = (options: GeneratorOptions): Layer.Layer<Generator, ChatlmError, Native> =>
    Layer.effect(
      Generator,
      Effect.gen(function* () {
        const model = yield* localFolder(options.model, "model")
        const loaded = yield* loadGenerator({ ...options, model })
        return {
          info: loaded.info,
          generate: (prompts, { batch = defaultBatch, ...settings } = {}) =>
            loaded.generate(prompts, settings, batch),
          stream: (prompt, settings = {}) => loaded.stream(prompt, settings)
        }
      })
    )
}
