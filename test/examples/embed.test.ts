import { once } from "node:events"
import type { AddressInfo } from "node:net"

import { afterAll, beforeAll, expect, it } from "vitest"

import { embed } from "../../examples/03-embed.ts"
import { makeModel, question } from "../http/support.ts"

let model: Awaited<ReturnType<typeof makeModel>>
beforeAll(async () => {
  model = await makeModel()
}, 120_000)
afterAll(() => model.remove())

it("examples/03-embed.ts answers beside its own page, and ends", async () => {
  const { server, end } = await embed(model.ofLength(3))
  await once(server.listen(0, "127.0.0.1"), "listening")
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  expect(await (await fetch(url)).text()).toContain("/chatlm/v1/chat/completions")
  const response = await fetch(`${url}/chatlm/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "mine", ...question("三只猫和五只猫"), temperature: 1, seed: 7 })
  })
  expect(await response.json()).toMatchObject({
    model: "mine",
    choices: [{ finish_reason: "length" }],
    usage: { completion_tokens: 3 }
  })
  await end()
  await expect(fetch(url)).rejects.toThrow()
})

it("a folder without a model is an error that says what to do", async () => {
  await expect(embed(model.at("nowhere"))).rejects.toMatchObject({
    _tag: "InputError",
    help: expect.stringMatching(/./)
  })
})
