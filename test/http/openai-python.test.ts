/** OpenAI's own client for Python against the real program over a small model. */
import { execFile } from "node:child_process"
import { join } from "node:path"
import { promisify } from "node:util"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { python, pythonHas } from "../python.ts"
import { learning, makeModel, startServer } from "./support.ts"

const there = pythonHas("openai")

describe.skipIf(!there)("OpenAI's client for Python", () => {
  let model: Awaited<ReturnType<typeof makeModel>>
  const begun: Array<Awaited<ReturnType<typeof startServer>>> = []
  beforeAll(async () => {
    model = await makeModel(learning)
    begun.push(await startServer(model.ofLength(12), "--api-key", "key"))
    const one = ["--max-batch", "1", "--max-queue", "1", "--cache-memory", "16GiB"]
    begun.push(await startServer(model.ofLength(1_000_000), ...one))
  }, 120_000)
  afterAll(() => {
    for (const { child } of begun) child.kill("SIGKILL")
    model.remove()
  })

  it("is content with all that it asks for", async () => {
    const script = join(import.meta.dirname, "openai_client.py")
    const [server, endless] = begun.map(({ url }) => url)
    const ran = promisify(execFile)(python, [script, String(server), "key", String(endless)], {
      env: { PATH: process.env.PATH, NO_PROXY: "127.0.0.1" }
    })
    const { stdout } = await ran
    expect(stdout.match(/^ok \w+$/gm)).toHaveLength(8)
  })
})
