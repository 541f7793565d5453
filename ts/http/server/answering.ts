/** What the handlers need of the program: an answer to a text, and how the server stands. */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"

import type { ChatlmError } from "../../native/index.ts"

export type ServerState = "loading" | "ok" | "draining"

export class Answering extends Context.Service<
  Answering,
  {
    /** Waits for the model where it is still loading; texts are answered one after the other. */
    readonly answer: (text: string) => Effect.Effect<string, ChatlmError>
    readonly state: Effect.Effect<ServerState>
  }
>()("chatlm/http/Answering") {}

/** The key that a caller must bring; empty where none is set. */
export const ApiKey = Context.Reference<string>("chatlm/http/ApiKey", { defaultValue: () => "" })
