/** The pipeline of a user's module: its default export, or what that returns as a function. */
import { registerHooks } from "node:module"
import { resolve } from "node:path"
import { pathToFileURL } from "node:url"

import * as Effect from "effect/Effect"

import { isChatlmError, makeError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import * as Files from "./files.ts"
import { isPipeline } from "./pipeline.ts"
import type { Pipeline } from "./pipeline.ts"

let hooked = false

/**
 * A module that lies where no `chatlm` is installed gets this one, and the Effect that comes with it.
 * One that has its own keeps it.
 */
const lendModules = () => {
  if (hooked) return
  hooked = true
  registerHooks({
    resolve: (specifier, context, next) => {
      try {
        return next(specifier, context)
      } catch (error) {
        if (!/^(chatlm|effect)(\/|$)/.test(specifier)) throw error
        return next(specifier, { ...context, parentURL: import.meta.url })
      }
    }
  })
}

const broken = (file: string, message: string, cause?: unknown) =>
  makeError(
    "CONFIG_INVALID",
    `${file}: ${message}`,
    `the module must load by itself and say: export default pipeline("name", { … })`,
    { file },
    cause
  )

export const loadPipeline = (file: string): Effect.Effect<Pipeline, ChatlmError> =>
  Effect.gen(function* () {
    const path = resolve(file)
    if (!(yield* Files.exists(path))) {
      return yield* Effect.fail(
        makeError("INPUT_NOT_FOUND", `there is no file ${file}`, "give the module that holds the pipeline", {
          file
        })
      )
    }
    const value = yield* Effect.tryPromise({
      try: async () => {
        lendModules()
        const module = (await import(pathToFileURL(path).href)) as { default?: unknown }
        const exported = module.default
        return typeof exported === "function" ? ((await (exported as () => unknown)()) as unknown) : exported
      },
      catch: (error) =>
        isChatlmError(error)
          ? error
          : broken(
              file,
              error instanceof Error ? (error.message.split("\n")[0] ?? "") : "does not load",
              error
            )
    })
    return isPipeline(value)
      ? value
      : yield* Effect.fail(broken(file, "its default export is not a pipeline"))
  })
