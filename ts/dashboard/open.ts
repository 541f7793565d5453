/** The user's browser. */
import { spawn } from "node:child_process"

import * as Effect from "effect/Effect"

/** Shows an address in the user's browser; where there is none, nothing happens. */
export const openInBrowser = (address: string): Effect.Effect<void> =>
  Effect.sync(() => {
    const [command, ...args] =
      process.platform === "darwin"
        ? ["open", address]
        : process.platform === "win32"
          ? ["cmd", "/c", "start", "", address]
          : ["xdg-open", address]
    const child = spawn(command ?? "", args, { stdio: "ignore", detached: true })
    child.on("error", () => {})
    child.unref()
  })
