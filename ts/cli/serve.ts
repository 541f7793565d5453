/** `chatlm serve`: the model behind HTTP. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"

import { makeError } from "../native/index.ts"
import * as Flags from "./core/flags.ts"
import { generationFlags, settingsOf } from "./core/generation.ts"
import { Host } from "./core/host.ts"
import { Output } from "./core/output.ts"
import { Server } from "./core/server.ts"
import { sizeFlag } from "./core/size.ts"
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
      "A bearer key that callers may bring (others can see it: prefer the file); may be given several times",
      "KEY"
    ).pipe(Flag.atLeast(0)),
    apiKeyFile: Flags.text("api-key-file", "A file with one key a line", "FILE").pipe(Flag.optional),
    modelName: Flags.text("model-name", "The name that clients ask for (default: the folder's)", "NAME").pipe(
      Flag.optional
    ),
    maxBatch: Flags.integer("max-batch", "Answers that are written together at most", 1).pipe(
      Flag.withDefault(32)
    ),
    maxQueue: Flags.integer("max-queue", "Requests that wait at most; more get 429", 0).pipe(
      Flag.withDefault(256)
    ),
    cacheMemory: sizeFlag(
      "cache-memory",
      "Memory for the keys and values of running answers (default: 1GiB)"
    ),
    turns: Flags.integer(
      "turns",
      "Earlier turns of a conversation that the model is told (it was trained on none)",
      0
    ).pipe(Flag.withDefault(0)),
    requestTimeout: Flags.integer(
      "request-timeout",
      "Seconds that a request may take, waiting included",
      1
    ).pipe(Flag.withDefault(300)),
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
        : yield* files
            .readFileString(flags.apiKeyFile.value)
            .pipe(
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
      const lines = (text: string) => text.split(/\r?\n/).map((line) => line.trim())
      const given = flags.apiKey.length > 0 ? flags.apiKey : lines(fromFile ?? host.env.CHATLM_API_KEY ?? "")
      const apiKeys = given.filter((key) => key !== "")
      if (fromFile !== undefined && apiKeys.length === 0) {
        // An empty file must not open the door.
        return yield* Effect.fail(
          makeError("USAGE", "the key file holds no key", "write one key a line, or leave out --api-key-file")
        )
      }
      yield* server.serve({
        generator: {
          model: flags.model,
          ...Flags.given("dtype", flags.dtype),
          ...Flags.given("adapter", flags.adapter)
        },
        settings: settingsOf(flags, common.seed),
        limits: {
          rows: flags.maxBatch,
          waiting: flags.maxQueue,
          ...Flags.given("cacheBytes", flags.cacheMemory)
        },
        turns: flags.turns,
        requestSeconds: flags.requestTimeout,
        ...Flags.given("modelName", flags.modelName),
        host: flags.host,
        port: flags.port,
        apiKeys,
        onReady: (address) => output.warn(`listening on ${address}`)
      })
    })
)
