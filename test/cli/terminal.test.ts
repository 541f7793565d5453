// What a terminal shows of a training while it goes.
import { describe, expect, it } from "vitest"

import { sparkline } from "../../ts/cli/core/progress.ts"
import { terminalText } from "../../ts/cli/core/training.ts"

describe("the course of the loss", () => {
  it("falls from high to low, keeps to its width, and takes what is there", () => {
    expect(sparkline([8, 7, 6, 5, 4, 3, 2, 1])).toBe("█▇▆▅▄▃▂▁")
    expect(sparkline(Array.from({ length: 1000 }, (_, n) => -n))).toMatch(/^█.{13,14}▁$/)
    expect(sparkline([])).toBe("")
    expect(sparkline([2, Number.NaN, 2])).toBe("▁▁")
  })
})

describe("the line", () => {
  const event = {
    type: "step",
    step: 120,
    totalSteps: 500,
    loss: 2.5,
    tokensPerSecond: 1234.4,
    rssBytes: 1.5 * 2 ** 30
  } as const

  it("tells loss, speed, memory, and what comes next", () => {
    const config = { saveEvery: 100, evalEvery: 50, valid: "v" }
    expect(terminalText(event, [3, 2.5], config)).toBe(
      "loss 2.5 █▁, 1,234 tokens/s, 1.50 GiB, save at 200, evaluation at 150"
    )
  })

  it("leaves out what never comes or comes with the end", () => {
    expect(terminalText(event, [2.5], { saveEvery: 1000, evalEvery: 0, valid: "v" })).toBe(
      "loss 2.5 ▁, 1,234 tokens/s, 1.50 GiB"
    )
    expect(terminalText(event, [2.5], { saveEvery: 1000, evalEvery: 50, valid: null })).toBe(
      "loss 2.5 ▁, 1,234 tokens/s, 1.50 GiB"
    )
  })
})
