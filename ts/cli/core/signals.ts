/** Who takes a signal first: a conversation may keep Ctrl+C for itself. */
import * as Context from "effect/Context"

import type { Signal } from "./host.ts"

export interface Signals {
  /** `handler` answers whether it took the signal; the newest handler is asked first. */
  readonly intercept: (handler: (signal: Signal) => boolean) => () => void
  readonly dispatch: (signal: Signal) => boolean
}

export const Signals = Context.Service<Signals>("chatlm/cli/Signals")

export const makeSignals = (): Signals => {
  const handlers: Array<(signal: Signal) => boolean> = []
  return {
    intercept: (handler) => {
      handlers.push(handler)
      return () => {
        const index = handlers.lastIndexOf(handler)
        if (index >= 0) handlers.splice(index, 1)
      }
    },
    dispatch: (signal) => handlers.toReversed().some((handler) => handler(signal))
  }
}
