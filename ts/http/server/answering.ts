/** What the handlers need of the program: answers on their way, how the server stands, and who may ask. */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"

import type { GenerationSettings, ServingStats } from "../../generate/generate.ts"
import type { Asked, ChatlmError } from "../../native/index.ts"

export type ServerState = "loading" | "ok" | "draining"

export class Answering extends Context.Service<
  Answering,
  {
    /**
     * Takes a request in, once the model is loaded; what is given beats the server's own settings. Where the model has
     * no room for the prompt, the first of `shorter` that fits is asked.
     */
    readonly ask: (
      prompt: string,
      given: GenerationSettings,
      shorter?: ReadonlyArray<string>
    ) => Effect.Effect<Asked, ChatlmError>
    readonly state: Effect.Effect<ServerState>
    /** The core's numbers; undefined while the model is loading. */
    readonly stats: Effect.Effect<ServingStats | undefined>
    /** The name under which the model is asked for. */
    readonly model: string
    /** When the server began, in seconds since 1970. */
    readonly created: number
    /** Earlier turns of a conversation that the prompt tells of. */
    readonly turns: number
  }
>()("chatlm/http/Answering") {}

/** The keys of which a caller must bring one; none where none is asked for. */
export const ApiKeys = Context.Reference<ReadonlyArray<string>>("chatlm/http/ApiKeys", {
  defaultValue: () => []
})
