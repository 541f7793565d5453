import { describe, expect, it } from "vitest"

import { envelope } from "../../ts/native/index.ts"
import { chatlm, lines } from "./support.ts"

const clean = ["clean", "--source", "alpaca", "--in", "a.json", "--out", "b.parquet"]
const failing = (code: string) => ({
  clean: async () => {
    throw envelope(code, `what is wrong with ${code}`, "what to do", { file: "a.json", row: 3 })
  }
})

describe("exit statuses", () => {
  for (const [code, status] of [
    ["USAGE", 1],
    ["TARGET_EXISTS", 1],
    ["INPUT_NOT_FOUND", 2],
    ["INPUT_ROW", 2],
    ["CONFIG_INVALID", 2],
    ["MODEL_INVALID", 2],
    ["NOT_FINITE", 2],
    ["DISK_FULL", 3],
    ["PERMISSION_DENIED", 3],
    ["DEVICE_UNAVAILABLE", 3],
    ["INTERNAL", 4],
    ["A_CODE_OF_TOMORROW", 4],
    ["CANCELLED", 130]
  ] as const) {
    it(`${code} is ${status}, two lines on standard error, nothing on standard output`, async () => {
      const ran = await chatlm(clean, { border: failing(code) })
      expect(ran.status).toBe(status)
      expect(ran.out).toBe("")
      expect(lines(ran.error)).toEqual([`error[${code}]: what is wrong with ${code}`, "help: what to do"])
    })
  }

  it("an error that is no envelope is a bug", async () => {
    const ran = await chatlm(clean, {
      border: {
        clean: () => {
          throw new TypeError("not a function")
        }
      }
    })
    expect(ran.status).toBe(4)
    expect(ran.error).toContain("error[INTERNAL]: not a function")
  })

  it("with --json the envelope is the last line of standard output", async () => {
    const ran = await chatlm([...clean, "--json"], { border: failing("INPUT_ROW") })
    expect(ran.status).toBe(2)
    expect(JSON.parse(lines(ran.out).at(-1) ?? "")).toEqual({
      error: {
        code: "INPUT_ROW",
        message: "what is wrong with INPUT_ROW",
        help: "what to do",
        context: { file: "a.json", row: 3 }
      }
    })
  })

  it("a stack only with --debug", async () => {
    const quiet = await chatlm(clean, { border: failing("INTERNAL") })
    expect(lines(quiet.error)).toHaveLength(2)
    const loud = await chatlm([...clean, "--debug"], { border: failing("INTERNAL") })
    expect(loud.error).toContain("at ")
  })
})

describe("wrong usage is status 1 in the same two lines", () => {
  for (const args of [
    ["clen"],
    ["clean"],
    ["clean", "--sourc", "alpaca"],
    ["clean", "--source", "alpaca", "--in", "a", "--out", "b", "--for", "fun"],
    ["dedup", "--in", "a", "--out", "b", "--threshold", "much"],
    ["dedup", "--in", "a", "--out", "b", "--compat", "--ngram", "3"],
    ["eval"],
    ["eval", "bleu"],
    ["eval", "bleu", "--model", "m", "--in", "a", "--predictions", "p"],
    ["generate", "--model", "m"],
    ["pretrain", "--set", "batchSize"],
    ["verify-resume", "--steps", "4", "--at", "4"],
    ["serve", "--model", "m", "--port", "70000"],
    ["merge", "--in", "a", "--out", "b", "--threads", "0"],
    ["doctor", "--device", "toaster"]
  ]) {
    it(args.join(" "), async () => {
      const ran = await chatlm(args)
      expect(ran.status).toBe(1)
      expect(ran.out).toBe("")
      expect(lines(ran.error)).toHaveLength(2)
      expect(lines(ran.error)[0]).toMatch(/^error\[USAGE\]: /)
      expect(lines(ran.error)[1]).toMatch(/^help: ./)
    })
  }

  it("a mistyped verb gets the nearest one", async () => {
    expect((await chatlm(["clen"])).error).toContain("clean")
  })

  it("--json holds even where nothing else can be parsed", async () => {
    const ran = await chatlm(["clen", "--json"])
    expect(JSON.parse(ran.out).error.code).toBe("USAGE")
  })

  it("a device this build has not is status 3", async () => {
    const ran = await chatlm(["doctor", "--device", "cuda:0"])
    expect(ran.status).toBe(3)
    expect(ran.error).toContain("DEVICE_UNAVAILABLE")
  })
})
