/** A host in memory and a run of the command line on it. */
import { PassThrough } from "node:stream"

import * as Effect from "effect/Effect"

import type { Host, Signal } from "../../ts/cli/core/host.ts"
import type { Server } from "../../ts/cli/core/server.ts"
import { main } from "../../ts/cli/main.ts"
import type { Border } from "../../ts/native/index.ts"
import { Native } from "../../ts/native/index.ts"

export interface Ran {
  readonly status: number
  readonly out: string
  readonly error: string
  readonly exits: ReadonlyArray<number>
}

export interface RunOptions {
  readonly border?: Partial<Border>
  readonly stdin?: string | PassThrough
  readonly env?: Record<string, string>
  readonly terminal?: boolean
  /** Called with a way to send signals before the verb runs. */
  readonly withSignals?: (send: (signal: Signal) => void) => void
  readonly now?: () => number
  readonly serve?: Server["serve"]
}

export const chatlm = async (args: ReadonlyArray<string>, options: RunOptions = {}): Promise<Ran> => {
  const handlers = new Set<(signal: Signal) => void>()
  const exits: Array<number> = []
  let out = ""
  let error = ""
  const stdin = options.stdin instanceof PassThrough ? options.stdin : new PassThrough()
  if (typeof options.stdin === "string") stdin.end(options.stdin)
  const host: Host = {
    args,
    env: options.env ?? {},
    writeOut: (text) => {
      out += text
    },
    writeError: (text) => {
      error += text
    },
    errorIsTerminal: options.terminal ?? false,
    outIsTerminal: false,
    promptStream: new PassThrough(),
    stdin,
    onSignal: (handler) => {
      handlers.add(handler)
      return () => handlers.delete(handler)
    },
    exit: (status) => exits.push(status),
    now: options.now ?? (() => performance.now())
  }
  options.withSignals?.((signal) => {
    for (const handler of handlers) handler(signal)
  })
  const status = await main(host, {
    native: Native.testLayer(options.border),
    server: { serve: options.serve ?? (() => Effect.die("no server here")) }
  })
  return { status, out, error, exits }
}

/** The lines of a text, without the last line end. */
export const lines = (text: string): ReadonlyArray<string> => text.replace(/\n$/, "").split("\n")
