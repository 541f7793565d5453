/** `chatlm doctor`: what this build and machine have. */
import * as Effect from "effect/Effect"

import { Native } from "../native/index.ts"
import { columns, Output, snakeCase } from "./core/output.ts"
import { verb } from "./core/verb.ts"

export const command = verb("doctor", "Versions, processor features, devices, memory, threads", {}, () =>
  Effect.gen(function* () {
    const output = yield* Output
    const native = yield* Native
    const report = { ...(yield* native.doctor), node: process.version }
    const value = snakeCase(report)
    yield* output.result(
      value,
      columns(
        Object.entries(value).map(
          ([name, item]) => [name, Array.isArray(item) ? item.join(" ") : item] as const
        )
      )
    )
  })
)
