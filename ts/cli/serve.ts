/** `chatlm serve`: the model behind HTTP. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import * as Random from "effect/Random"

import { makeError } from "../native/index.ts"
import * as Flags from "./core/flags.ts"
import { generationFlags, settingsOf } from "./core/generation.ts"
import { Host } from "./core/host.ts"
import { Output } from "./core/output.ts"
import { Server } from "./core/server.ts"
import { verb } from "./core/verb.ts"

export const command = verb(
  "serve",
  "Serve a model over HTTP",
  {
    model: Flags.model,
    adapter: Flags.adapter,
    dtype: Flags.dtype,
    host: Flags.text("host", "The address to listen on", "ADDRESS").pipe(Flag.withDefault("127.0.0.1")),
    port: Flags.port(8812),
    apiKey: Flags.text(
      "api-key",
      "The bearer key that callers must bring (others can see it: prefer the file)",
      "KEY"
    ).pipe(Flag.optional),
    apiKeyFile: Flags.text("api-key-file", "A file that holds the key", "FILE").pipe(Flag.optional),
    ...generationFlags
  },
  (flags, common) =>
    Effect.gen(function* () {
      const host = yield* Host
      const output = yield* Output
      const server = yield* Server
      const files = yield* FileSystem.FileSystem
      const fromFile = Option.isNone(flags.apiKeyFile)
        ? undefined
        : yield* files.readFileString(flags.apiKeyFile.value).pipe(
            Effect.map((text) => text.trim()),
            Effect.mapError((error) =>
              makeError(
                "INPUT_NOT_FOUND",
                `cannot read the key file ${Option.getOrElse(flags.apiKeyFile, () => "")}`,
                "check the path of --api-key-file",
                {},
                error
              )
            )
          )
      const apiKey = Option.getOrElse(flags.apiKey, () => fromFile ?? host.env.CHATLM_API_KEY ?? "")
      const drawn = yield* Random.nextIntBetween(0, 2 ** 31)
      const seed = Option.some(Option.getOrElse(common.seed, () => drawn))
      yield* server.serve({
        generator: {
          model: flags.model,
          ...Flags.given("dtype", flags.dtype),
          ...Flags.given("adapter", flags.adapter)
        },
        settings: settingsOf(flags, seed),
        host: flags.host,
        port: flags.port,
        apiKey,
        onReady: (address) => output.warn(`listening on ${address}`)
      })
    })
)
