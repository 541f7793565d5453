/** What `chatlm serve` makes of its flags, and its words at the end. */
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"

import type { ServerOptions } from "../../ts/cli/core/server.ts"
import { makeError } from "../../ts/native/index.ts"
import { chatlm, lines } from "./support.ts"

/** The options with which a server would be started. */
const options = async (...flags: ReadonlyArray<string>): Promise<ServerOptions> => {
  const asked: Array<ServerOptions> = []
  await chatlm(["serve", "--model", "m", ...flags], {
    serve: (given) => {
      asked.push(given)
      return Effect.fail(makeError("PORT_IN_USE", "taken", "another"))
    }
  })
  const [first] = asked
  if (first === undefined) throw new Error("no server was asked for")
  return first
}

describe("chatlm serve", () => {
  it("asks for no limits but those that no one would miss", async () => {
    const given = await options()
    expect(given).toMatchObject({
      maxConnections: 1024,
      clientSeconds: 30,
      corsOrigins: [],
      allowedHosts: [],
      trustedProxies: []
    })
    for (const key of ["rateLimit", "maxTokens", "maxBody", "log"]) expect(given).not.toHaveProperty(key)
  })

  it("hands on what is given", async () => {
    const limits = ["--rate-limit", "60", "--max-tokens-limit", "500", "--max-body", "64KiB"]
    const connections = ["--max-connections", "50", "--client-timeout", "5"]
    const origins = ["--cors-origin", "https://a.example", "--cors-origin", "http://localhost:3000"]
    const hosts = [
      "--allowed-host",
      "a.example",
      "--trusted-proxy",
      "10.0.0.1",
      "--trusted-proxy",
      "fd00::/8"
    ]
    expect(await options(...limits, ...connections, ...origins, ...hosts, "--log", "requests")).toMatchObject(
      {
        rateLimit: 60,
        maxTokens: 500,
        maxBody: 65_536,
        maxConnections: 50,
        clientSeconds: 5,
        corsOrigins: ["https://a.example", "http://localhost:3000"],
        allowedHosts: ["a.example"],
        trustedProxies: ["10.0.0.1/32", "fd00::/8"],
        log: "requests"
      }
    )
    expect((await options("--log", "requests", "--log-text")).log).toBe("texts")
  })

  it("refuses what cannot be meant", async () => {
    for (const [flags, word] of [
      [["--cors-origin", "https://a.example/"], "https://a.example/"],
      [["--cors-origin", "a.example"], "a.example"],
      [["--trusted-proxy", "proxy"], "proxy"],
      [["--trusted-proxy", "10.0.0.0/33"], "10.0.0.0/33"],
      [["--log-text"], "--log-text"],
      [["--rate-limit", "0"], "0"],
      [["--log", "all"], "all"]
    ] as const) {
      const { status, error } = await chatlm(["serve", "--model", "m", ...flags])
      expect([flags, status, lines(error)[0]]).toEqual([flags, 1, expect.stringContaining(word)])
    }
  })

  it("promises nobody that something was saved", async () => {
    let send: (signal: "SIGTERM") => void = () => {}
    const { status, error } = await chatlm(["serve", "--model", "m"], {
      withSignals: (given) => {
        send = given
      },
      serve: () =>
        Effect.andThen(
          Effect.sync(() => setTimeout(() => send("SIGTERM"), 10)),
          Effect.never
        )
    })
    expect(status).toBe(130)
    expect(error).toContain("running answers end first")
    expect(error).not.toContain("saved")
  })
})
