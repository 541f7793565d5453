import { describe, expect, it } from "vitest"

import type { GenerationSettings } from "../../ts/native/index.ts"
import { memoryBorder } from "../../ts/native/index.ts"
import { chatlm, lines } from "./support.ts"

interface Call {
  readonly prompts: ReadonlyArray<string>
  readonly settings: GenerationSettings
  readonly first: number | null | undefined
}

/** The in-memory border, and what its generator was asked. */
const listening = (prompts: ReadonlyArray<string> = []) => {
  const memory = memoryBorder()
  const calls: Array<Call> = []
  const counts: Array<number> = []
  const left = [...prompts]
  const border = {
    PromptReader: {
      open: () => ({
        next: async (count: number) => {
          counts.push(count)
          return left.splice(0, count)
        }
      })
    },
    Generator: {
      load: async (options: Parameters<typeof memory.Generator.load>[0]) => {
        const generator = await memory.Generator.load(options)
        return {
          info: generator.info,
          stream: generator.stream.bind(generator),
          close: () => {},
          generate: (...args: Parameters<typeof generator.generate>) => {
            calls.push({ prompts: args[0], settings: args[1], first: args[5] })
            return generator.generate(...args)
          }
        }
      }
    }
  }
  return { border, calls, counts }
}

const generate = ["generate", "--model", "m"]

describe("the flags of decoding", () => {
  it("reach the core as they are, and only those that were given", async () => {
    const { border, calls } = listening()
    const flags = [
      ["--search", "beam-sample", "--preset", "chatlm-beam", "--beams", "4", "--n-best", "2"],
      ["--temperature", "0.9", "--top-k", "30", "--top-p", "0.8", "--no-repeat-ngram", "3"],
      ["--repetition-penalty", "1.2", "--length-penalty", "-2.0", "--early-stopping", "never"],
      ["--penalty-alpha", "0.4", "--max-new-tokens", "9", "--stop", "。", "--stop", "\n", "--seed", "5"]
    ].flat()
    const ran = await chatlm([...generate, "--prompt", "你好", ...flags], { border })
    expect(ran.error).toBe("")
    expect(calls[0]?.settings).toEqual({
      search: "beam-sample",
      preset: "chatlm-beam",
      beams: 4,
      answers: 2,
      temperature: 0.9,
      topK: 30,
      topP: 0.8,
      noRepeatNgram: 3,
      repetitionPenalty: 1.2,
      lengthPenalty: -2,
      earlyStopping: "never",
      penaltyAlpha: 0.4,
      maxNewTokens: 9,
      stop: ["。", "\n"],
      seed: 5
    })
    const plain = listening()
    await chatlm([...generate, "--prompt", "你好"], { border: plain.border })
    expect(plain.calls[0]?.settings).toEqual({ seed: 23_333 })
  })

  it("chat has them too, but one answer a question", async () => {
    const { border, calls } = listening()
    const ran = await chatlm(["chat", "--model", "m", "--json", "--beams", "3", "--stop", "。"], {
      border,
      stdin: "你好\n"
    })
    expect(ran.status).toBe(0)
    expect(calls[0]?.settings).toMatchObject({ beams: 3, stop: ["。"] })
    expect((await chatlm(["chat", "--model", "m", "--n-best", "2"], { stdin: "" })).status).toBe(1)
  })

  for (const flags of [
    ["--search", "widest"],
    ["--preset", "chatlm-best"],
    ["--beams", "0"],
    ["--n-best", "0"],
    ["--early-stopping", "soon"],
    ["--length-penalty", "long"]
  ]) {
    it(`${flags.join(" ")} is wrong usage`, async () => {
      const ran = await chatlm([...generate, "--prompt", "你好", ...flags])
      expect(ran.status).toBe(1)
      expect(lines(ran.error)[0]).toMatch(/^error\[USAGE\]: /)
      expect(lines(ran.error)[1]).toMatch(/^help: ./)
    })
  }
})

describe("generate", () => {
  it("prints every answer of a prompt, with its score where there is one", async () => {
    const ran = await chatlm([...generate, "--prompt", "好", "--beams", "2", "--n-best", "2", "--json"])
    const tokens = [..."你说：好"].map((sign) => sign.codePointAt(0)).concat(1)
    expect(lines(ran.out).map((line) => JSON.parse(line))).toEqual([
      { prompt: "好", response: "你说：好", tokens, score: -0.5 },
      { prompt: "好", response: "你说：好", tokens, score: -1.5 }
    ])
  })

  it("reads, answers and prints a file part by part, in order", async () => {
    const prompts = Array.from({ length: 70 }, (_, row) => `问${row}`)
    const { border, calls, counts } = listening(prompts)
    const ran = await chatlm([...generate, "--prompt", "先", "--in", "-", "--batch", "2"], { border })
    expect(ran.status).toBe(0)
    expect(lines(ran.out)).toEqual(["先", ...prompts].map((prompt) => `你说：${prompt}`))
    // Never more than a few batches at a time, and each part knows how many came before.
    expect(counts).toEqual([32, 32, 32, 32])
    expect(calls.map(({ prompts, first }) => [prompts.length, first])).toEqual([
      [1, 0],
      [32, 1],
      [32, 33],
      [6, 65]
    ])
  })

  it("prints what it has before a row that is wrong", async () => {
    const ran = await chatlm([...generate, "--in", "a.jsonl", "--batch", "1"], {
      border: {
        PromptReader: {
          open: () => {
            let parts = 0
            return {
              next: async () => {
                parts += 1
                if (parts === 1) return ["一", "二"]
                throw new Error(
                  JSON.stringify({
                    code: "INPUT_ROW",
                    message: "a.jsonl, row 2: …",
                    help: "mend it",
                    context: {}
                  })
                )
              }
            }
          }
        }
      }
    })
    expect(ran.status).toBe(2)
    expect(ran.out).toBe("你说：一\n你说：二\n")
    expect(ran.error).toContain("error[INPUT_ROW]: a.jsonl, row 2")
  })
})
