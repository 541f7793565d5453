/** Who takes a signal first: a conversation may keep Ctrl+C for itself. And what is said when the program ends by one. */
import * as Context from "effect/Context"

import type { Signal } from "./host.ts"

export interface Ending {
  readonly stopping: string
  readonly help: string
}

export interface Signals {
  /** The words for most verbs; one that saves nothing has others. */
  ending: Ending
  /** `handler` answers whether it took the signal; the newest handler is asked first. */
  readonly intercept: (handler: (signal: Signal) => boolean) => () => void
  readonly dispatch: (signal: Signal) => boolean
}

export const Signals = Context.Service<Signals>("chatlm/cli/Signals")

export const makeSignals = (): Signals => {
  const handlers: Array<(signal: Signal) => boolean> = []
  return {
    ending: {
      stopping: "what runs is saved first",
      help: "what was done is saved: run the same command again to go on"
    },
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
