/** The program: joins the command line, the core and the server, and ends the process with its status. */
import { nodeHost } from "./cli/core/host.ts"
import { main } from "./cli/main.ts"
import * as Effect from "effect/Effect"

import { Native } from "./native/index.ts"

const status = await main(nodeHost(), {
  native: Native.layer,
  server: {
    // The HTTP modules are large; only serve pays for them.
    serve: (options) =>
      Effect.flatMap(
        Effect.promise(() => import("./http/index.ts")),
        (http) => http.serve(options)
      )
  }
})
// A pipe takes what its reader leaves room for: the rest is written before the end, unless a signal comes.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => process.exit(status))
for (const stream of [process.stdout, process.stderr]) {
  if (stream.writableLength > 0) await new Promise((done) => stream.write("", done))
}
// Threads of the core may still be winding down; nothing is owed to them.
process.exit(status)
