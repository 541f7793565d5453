/**
 * The server as the command line sees it. `ts/http` provides it through `ts/chatlm.ts`, since the two
 * never import each other.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"

import type { GenerationSettings, GeneratorOptions, ServingLimits } from "../../generate/generate.ts"
import type { ChatlmError, Native } from "../../native/index.ts"

export interface ServerOptions {
  readonly generator: GeneratorOptions
  readonly settings: GenerationSettings
  readonly limits: ServingLimits
  readonly turns: number
  readonly requestSeconds: number
  readonly modelName?: string
  readonly host: string
  readonly port: number
  readonly apiKeys: ReadonlyArray<string>
  readonly rateLimit?: number
  readonly maxTokens?: number
  readonly maxBody?: number
  readonly maxConnections: number
  readonly clientSeconds: number
  readonly corsOrigins: ReadonlyArray<string>
  readonly allowedHosts: ReadonlyArray<string>
  readonly trustedProxies: ReadonlyArray<string>
  readonly log?: "requests" | "texts"
  readonly onReady: (address: string) => Effect.Effect<void>
}

export interface Server {
  readonly serve: (options: ServerOptions) => Effect.Effect<never, ChatlmError, Native>
}

export const Server = Context.Service<Server>("chatlm/cli/Server")
