/** Many at once, some of whom leave, and the end while they are served: the real program over a small model. */
import { setTimeout } from "node:timers/promises"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { makeModel, metric, post, question, startServer } from "./support.ts"

let model: Awaited<ReturnType<typeof makeModel>>
const begun: Array<Awaited<ReturnType<typeof startServer>>> = []
beforeAll(async () => {
  model = await makeModel()
}, 120_000)
afterAll(() => {
  for (const { child } of begun) child.kill("SIGKILL")
  model.remove()
})

/** Serves the model with answers of so many tokens. */
const serve = async (tokens: number, ...flags: ReadonlyArray<string>) => {
  const server = await startServer(model.ofLength(tokens), ...flags)
  begun.push(server)
  return server
}

interface Answer {
  readonly choices: ReadonlyArray<{ readonly message: { readonly content: string } }>
}
const text = async (response: Response) =>
  ((await response.json()) as Answer).choices.map(({ message }) => message.content)

const until = async (what: () => Promise<boolean>, seconds = 10) => {
  const end = Date.now() + seconds * 1000
  while (!(await what())) {
    if (Date.now() > end) throw new Error("it does not happen")
    await setTimeout(10)
  }
}

describe("a served model", () => {
  it("gives the same seed the same answer, alone and among fifteen others", async () => {
    const { url } = await serve(60)
    const mine = { ...question("三只猫和五只猫"), temperature: 1, seed: 7, n: 2 }
    const alone = await text(await post(url, mine))
    expect(alone).toHaveLength(2)
    expect(alone[0]).not.toBe(alone[1])
    const others = Array.from({ length: 15 }, (_, seed) =>
      post(url, { ...question("一只狗".repeat(1 + seed)), temperature: 1.2, seed: 100 + seed })
    )
    const [among, ...rest] = await Promise.all([post(url, mine), ...others])
    expect(await text(among as Response)).toEqual(alone)
    for (const other of rest) expect((await text(other))[0]).not.toBe(alone[0])
    expect(await metric(url, "requests_answered_total")).toBe(17)
  })

  it("leaves out the oldest turns of a conversation that it has no room for, never the question", async () => {
    const { url } = await serve(5, "--turns", "3")
    const say = (role: string, content: string) => ({ role, content })
    const turn = (length: number) => [say("user", "只猫".repeat(length)), say("assistant", "是")]
    const asked = async (...before: ReadonlyArray<object>) => {
      const response = await post(url, { messages: [...before, say("user", "三只猫和五只猫")] })
      const { usage } = (await response.json()) as { usage: { prompt_tokens: number } }
      return { tokens: usage.prompt_tokens, cut: response.headers.get("x-chatlm-prompt-cut") }
    }
    const whole = await asked(...turn(2), ...turn(1))
    expect(whole.cut).toBe(null)
    // Room is for 512 tokens; the tokenizer may join characters.
    expect(await asked(...turn(2000), ...turn(2), ...turn(1))).toEqual({ ...whole, cut: "true" })
    const alone = await asked(...turn(2000))
    expect(alone.cut).toBe("true")
    expect(alone.tokens).toBeLessThan(whole.tokens)
  })

  it("gives the place of a client that leaves to others at once", async () => {
    // Hours of answer, were it not for the leaving.
    const { url } = await serve(1_000_000, "--max-batch", "2", "--cache-memory", "16GiB")
    const leaving = Array.from({ length: 2 }, () => new AbortController())
    for (const { signal } of leaving) {
      const response = await post(url, { ...question("一"), temperature: 1, stream: true }, { signal })
      await response.body?.getReader().read()
    }
    expect(await metric(url, "requests_running")).toBe(2)
    const waiting = new AbortController()
    const third = post(url, { ...question("二"), temperature: 1, stream: true }, { signal: waiting.signal })
    await until(async () => (await metric(url, "requests_waiting")) === 1)
    leaving[0]?.abort()
    await until(async () => (await metric(url, "requests_waiting")) === 0)
    expect((await third).status).toBe(200)
    expect(await metric(url, "requests_cancelled_total")).toBe(1)
    leaving[1]?.abort()
    waiting.abort()
    await until(async () => (await metric(url, "requests_running")) === 0)
    expect(await metric(url, "cache_bytes")).toBe(0)
  })

  it("ends running answers when it is told to end, and takes no new ones", async () => {
    const { url, child, ran } = await serve(1500)
    const running = await Promise.all(
      Array.from({ length: 8 }, (_, seed) =>
        post(url, { ...question("三只猫"), temperature: 1, seed, stream: true })
      )
    )
    const readers = running.map((response) => response.text())
    await until(async () => (await metric(url, "requests_running")) === 8)
    const told = Date.now()
    child.kill("SIGTERM")
    await setTimeout(100)
    const late = await post(url, question("迟到")).then(
      ({ status }) => status,
      () => "refused"
    )
    expect([503, "refused"]).toContain(late)
    for (const said of await Promise.all(readers)) {
      expect(said.trimEnd().endsWith("data: [DONE]")).toBe(true)
      expect(said).toContain('"finish_reason":"length"')
    }
    const { status, error } = await ran
    expect(status).toBe(130)
    expect(error).not.toContain("saved")
    expect(Date.now() - told).toBeLessThan(20_000)
  })
})
