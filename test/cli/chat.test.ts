import { PassThrough } from "node:stream"

import { describe, expect, it } from "vitest"

import type { Signal } from "../../ts/cli/core/host.ts"
import { memoryBorder } from "../../ts/native/index.ts"
import { chatlm, lines } from "./support.ts"

describe("chat without a terminal", () => {
  it("answers line by line, passes over empty ones, ends at exit", async () => {
    const ran = await chatlm(["chat", "--model", "m"], { stdin: "你好\n\n  \n再见\nexit\n不问了\n" })
    expect(ran.status).toBe(0)
    expect(ran.out).toBe("你说：你好\n你说：再见\n")
  })

  it("ends with its input", async () => {
    expect((await chatlm(["chat", "--model", "m"], { stdin: "" })).status).toBe(0)
    const ran = await chatlm(["chat", "--model", "m", "--json"], { stdin: "你好" })
    expect(JSON.parse(ran.out)).toMatchObject({ prompt: "你好", response: "你说：你好" })
  })

  it("Ctrl+C stops the answer, not the program", async () => {
    let send: (signal: Signal) => void = () => {}
    const memory = memoryBorder()
    let closed = 0
    const stdin = new PassThrough()
    const ran = chatlm(["chat", "--model", "m"], {
      stdin,
      withSignals: (to) => {
        send = to
      },
      border: {
        Generator: {
          load: async (options) => {
            const generator = await memory.Generator.load(options)
            return {
              info: generator.info,
              generate: generator.generate.bind(generator),
              close: () => {},
              stream: (prompt, settings) => {
                if (prompt !== "长") return generator.stream(prompt, settings)
                return {
                  close: () => {
                    closed += 1
                  },
                  async *[Symbol.asyncIterator]() {
                    yield { text: "开始", tokens: 1, done: false }
                    setTimeout(() => send("SIGINT"), 5)
                    for (;;) {
                      await new Promise((done) => setTimeout(done, 1))
                      yield { text: ".", tokens: 1, done: false }
                    }
                  }
                }
              }
            }
          }
        }
      }
    })
    stdin.write("长\n短\nexit\n")
    const { status, out } = await ran
    expect(status).toBe(0)
    expect(closed).toBe(1)
    expect(lines(out)[0]).toMatch(/^开始\.*$/)
    expect(lines(out)[1]).toBe("你说：短")
  })
})
