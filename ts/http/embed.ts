/**
 * A served model inside a server that somebody else has. The HTTP modules are large: who imports the library pays
 * for them at the first call.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Scope from "effect/Scope"

import { Native } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import type { NodeHandler, NodeHandlerOptions } from "./server/node.ts"

export type { NodeHandler, NodeHandlerOptions } from "./server/node.ts"

/** A handler that is ended by hand. */
export interface ClosableNodeHandler extends NodeHandler {
  /** Lets running answers end, then frees the model. */
  readonly close: () => Promise<void>
}

/**
 * Loads a model and gives a function for `http.createServer` and the like, until the scope is closed: then running
 * answers end first, and the model is freed.
 */
export const makeNodeHandler = (
  options: NodeHandlerOptions
): Effect.Effect<NodeHandler, ChatlmError, Native | Scope.Scope> =>
  Effect.flatMap(
    Effect.promise(() => import("./server/node.ts")),
    (node) => node.makeNodeHandler(options)
  )

// What a program prints is its own; what went wrong is told beside it.
const toStandardError = Logger.layer([Logger.withConsoleError(Logger.formatLogFmt)])

/**
 * The same for programs without Effect: rejects with the error (`message`, `help`, `code`) where the model cannot
 * be loaded.
 *
 *     const handler = await toNodeHandler({ model: "model_save" })
 *     http.createServer(handler).listen(8812)
 */
export const toNodeHandler = async (options: NodeHandlerOptions): Promise<ClosableNodeHandler> => {
  const scope = Scope.makeUnsafe()
  const handler = await makeNodeHandler(options).pipe(
    Scope.provide(scope),
    Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause))),
    Effect.provide(Layer.merge(Native.layer, toStandardError)),
    Effect.runPromise
  )
  return Object.assign<NodeHandler, Pick<ClosableNodeHandler, "close">>(
    (request, response, next) => handler(request, response, next),
    { close: () => Effect.runPromise(Scope.close(scope, Exit.void)) }
  )
}
