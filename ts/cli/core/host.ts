/**
 * What the command line needs of the process it runs in: arguments, streams, terminal, signals. The one
 * place of `ts/cli` that touches `process`; tests give a host of their own.
 */
import * as Context from "effect/Context"

export type Signal = "SIGINT" | "SIGTERM" | "SIGHUP" | "SIGPIPE"

export interface Host {
  readonly args: ReadonlyArray<string>
  readonly env: Readonly<Record<string, string | undefined>>
  readonly writeOut: (text: string) => void
  readonly writeError: (text: string) => void
  /** Whether standard error is a terminal that understands cursor movement. */
  readonly errorIsTerminal: boolean
  readonly outIsTerminal: boolean
  /** Where a conversation shows its question mark; not standard output, which holds the answers. */
  readonly promptStream: NodeJS.WritableStream
  readonly stdin: NodeJS.ReadableStream & { readonly isTTY?: boolean }
  /** Calls back at each signal until the answer is called. */
  readonly onSignal: (handler: (signal: Signal) => void) => () => void
  /** Ends the process at once. */
  readonly exit: (status: number) => void
  readonly now: () => number
}

export const Host = Context.Service<Host>("chatlm/cli/Host")

/** This process. */
export const nodeHost = (): Host => {
  const handlers = new Set<(signal: Signal) => void>()
  const emit = (signal: Signal) => {
    for (const handler of handlers) handler(signal)
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => emit(signal))
  // A reader that left (chatlm … | head) ends the work like a closed terminal does.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EPIPE" || error.code === "EIO") emit("SIGPIPE")
    })
  }
  return {
    args: process.argv.slice(2),
    env: process.env,
    writeOut: (text) => process.stdout.write(text),
    writeError: (text) => process.stderr.write(text),
    errorIsTerminal: process.stderr.isTTY === true && process.env.TERM !== "dumb",
    outIsTerminal: process.stdout.isTTY === true,
    promptStream: process.stderr,
    stdin: process.stdin,
    onSignal: (handler) => {
      handlers.add(handler)
      return () => handlers.delete(handler)
    },
    exit: (status) => process.exit(status),
    now: () => performance.now()
  }
}
