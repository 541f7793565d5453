import { describe, expect, it } from "vitest"

import type { Signal } from "../../ts/cli/core/host.ts"
import type { CancelToken } from "../../ts/native/index.ts"
import { envelope, memoryBorder } from "../../ts/native/index.ts"
import { chatlm, lines } from "./support.ts"

/** A promise that is settled from outside. */
const gate = () => {
  let open = () => {}
  const opened = new Promise<void>((done) => {
    open = done
  })
  return { open, opened }
}

describe("interruption", () => {
  it("a signal cancels the call, waits for it to stop, and is status 130", async () => {
    let send: (signal: Signal) => void = () => {}
    const running = gate()
    let stopped = false
    const border = {
      merge: async (_: unknown, __: unknown, token?: CancelToken | null) => {
        running.open()
        while (token?.cancelled !== true) await new Promise((done) => setTimeout(done, 1))
        await new Promise((done) => setTimeout(done, 20))
        stopped = true
        throw envelope("CANCELLED", "interrupted", "again")
      }
    }
    const ran = chatlm(["merge", "--in", "a", "--out", "b", "--json"], {
      border,
      withSignals: (to) => {
        send = to
      }
    })
    await running.opened
    send("SIGTERM")
    const { status, out, error } = await ran
    expect(stopped).toBe(true)
    expect(status).toBe(130)
    expect(JSON.parse(lines(out).at(-1) ?? "").error.code).toBe("CANCELLED")
    expect(error).toContain("error[CANCELLED]")
  })

  it("training lets the step end, saves, and is status 130", async () => {
    let send: (signal: Signal) => void = () => {}
    const memory = memoryBorder()
    let interrupts = 0
    let closes = 0
    const stepping = gate()
    const border = {
      TrainingRun: {
        open: async (...args: Parameters<typeof memory.TrainingRun.open>) => {
          const run = await memory.TrainingRun.open(...args)
          return {
            advance: async (steps: number) => {
              const events = await run.advance(steps)
              await new Promise((done) => setTimeout(done, 5))
              stepping.open()
              return events
            },
            interrupt: async () => {
              interrupts += 1
              return run.interrupt()
            },
            close: async () => {
              closes += 1
            }
          }
        }
      }
    }
    const ran = chatlm(["pretrain", "--set", "maxSteps=1000000", "--json"], {
      border,
      withSignals: (to) => {
        send = to
      }
    })
    await stepping.opened
    send("SIGHUP")
    const { status, out, error } = await ran
    expect(status).toBe(130)
    expect([interrupts, closes]).toEqual([1, 1])
    const told = lines(out).map((line) => JSON.parse(line))
    expect(told.at(-2)).toMatchObject({ type: "saved", path: expect.stringContaining("step-") })
    expect(told.at(-1).error.code).toBe("CANCELLED")
    expect(error).toContain("saved")
  })

  it("a second signal stops at once, its echo does not", async () => {
    let send: (signal: Signal) => void = () => {}
    let now = 0
    const running = gate()
    const ending = gate()
    const ran = chatlm(["merge", "--in", "a", "--out", "b"], {
      border: {
        merge: async () => {
          running.open()
          await ending.opened
          throw envelope("CANCELLED", "interrupted", "again")
        }
      },
      now: () => now,
      withSignals: (to) => {
        send = to
      }
    })
    await running.opened
    send("SIGINT")
    now = 50
    send("SIGINT")
    ending.open()
    expect((await ran).exits).toEqual([])

    const again = gate()
    const end = gate()
    const second = chatlm(["merge", "--in", "a", "--out", "b"], {
      border: {
        merge: async () => {
          again.open()
          await end.opened
          throw envelope("CANCELLED", "interrupted", "again")
        }
      },
      now: () => now,
      withSignals: (to) => {
        send = to
      }
    })
    await again.opened
    send("SIGINT")
    now += 1000
    send("SIGINT")
    end.open()
    expect((await second).exits).toEqual([130])
  })
})
