/** `chatlm serve`: the model behind HTTP. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as IpNetwork from "effect/net/IpNetwork"
import * as Option from "effect/Option"
import * as Result from "effect/Result"

import { makeError } from "../native/index.ts"
import * as Flags from "./core/flags.ts"
import { generationFlags, settingsOf } from "./core/generation.ts"
import { Host } from "./core/host.ts"
import { Output } from "./core/output.ts"
import { Server } from "./core/server.ts"
import { Signals } from "./core/signals.ts"
import { sizeFlag } from "./core/size.ts"
import { verb } from "./core/verb.ts"

/** As browsers write it in `Origin`. */
const isOrigin = (text: string) => text === "*" || (URL.canParse(text) && new URL(text).origin === text)

/** An address is the network that holds it alone. */
const networkOf = (text: string) => (text.includes("/") ? text : `${text}/${text.includes(":") ? 128 : 32}`)

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
    rateLimit: Flags.integer(
      "rate-limit",
      "Requests a minute of one key, or of one address where no keys are asked for (default: any number)",
      1
    ).pipe(Flag.optional),
    maxTokens: Flags.integer(
      "max-tokens-limit",
      "Tokens an answer that a request may ask for; more becomes as many (default: what --cache-memory holds)",
      1
    ).pipe(Flag.optional),
    maxBody: sizeFlag("max-body", "The largest body of a request (default: 1MiB)"),
    maxConnections: Flags.integer(
      "max-connections",
      "Connections at once; one more closes the one that has been idle longest",
      1
    ).pipe(Flag.withDefault(1024)),
    clientTimeout: Flags.integer(
      "client-timeout",
      "Seconds in which a client must have sent its request, and must go on taking its answer",
      1
    ).pipe(Flag.withDefault(30)),
    corsOrigin: Flags.text(
      "cors-origin",
      "An origin whose pages may ask this server, such as https://chat.example.org; * is any; may be given several times",
      "ORIGIN"
    ).pipe(Flag.atLeast(0)),
    allowedHost: Flags.text(
      "allowed-host",
      "A name besides the server's own address that requests may have in Host; * is any; may be given several times",
      "NAME"
    ).pipe(Flag.atLeast(0)),
    trustedProxy: Flags.text(
      "trusted-proxy",
      "A proxy, or a network of them (10.0.0.0/8), whose X-Forwarded-For is believed; may be given several times",
      "ADDRESS"
    ).pipe(Flag.atLeast(0)),
    log: Flag.Literals("log", ["errors", "requests"]).pipe(
      Flag.withDescription("What is logged: errors alone (default), or a JSON line a request too"),
      Flag.withDefault("errors")
    ),
    logText: Flags.boolean("log-text", "Prompts and answers in the lines of --log requests"),
    ...generationFlags
  },
  (flags, common) =>
    Effect.gen(function* () {
      const host = yield* Host
      const output = yield* Output
      const server = yield* Server
      const signals = yield* Signals
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
      const origin = flags.corsOrigin.find((origin) => !isOrigin(origin))
      if (origin !== undefined) {
        return yield* Effect.fail(
          makeError(
            "USAGE",
            `${origin} is no origin`,
            "write scheme, host and port alone: https://chat.example.org"
          )
        )
      }
      const trustedProxies = flags.trustedProxy.map(networkOf)
      const proxy = trustedProxies.findIndex((network) => Result.isFailure(IpNetwork.fromString(network)))
      if (proxy >= 0) {
        const message = `${flags.trustedProxy[proxy]} is no address and no network`
        return yield* Effect.fail(makeError("USAGE", message, "write 127.0.0.1 or 10.0.0.0/8"))
      }
      if (flags.logText && flags.log !== "requests") {
        return yield* Effect.fail(
          makeError("USAGE", "--log-text is part of a request's line", "give --log requests too")
        )
      }
      signals.ending = { stopping: "running answers end first", help: "start it again to go on serving" }
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
        maxConnections: flags.maxConnections,
        clientSeconds: flags.clientTimeout,
        corsOrigins: flags.corsOrigin,
        allowedHosts: flags.allowedHost,
        trustedProxies,
        ...Flags.given("rateLimit", flags.rateLimit),
        ...Flags.given("maxTokens", flags.maxTokens),
        ...Flags.given("maxBody", flags.maxBody),
        ...(flags.log === "errors" ? {} : { log: flags.logText ? "texts" : "requests" }),
        onReady: (address) => output.warn(`listening on ${address}`)
      })
    })
)
