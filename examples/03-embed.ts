/**
 * Serving: a model inside a server of one's own. `/chatlm/v1/…` is what OpenAI's clients call, `/` is ours.
 *
 *     node examples/03-embed.ts MODEL [PORT]
 */
import { createServer } from "node:http"
import { argv } from "node:process"

import { toNodeHandler } from "chatlm"

/** A server whose own page tells of the model beside it; `end` lets running answers end first. */
export const embed = async (model: string) => {
  const handler = await toNodeHandler({ model, prefix: "/chatlm", modelName: "mine" })
  const server = createServer((request, response) =>
    handler(request, response, () => response.end("Ask /chatlm/v1/chat/completions.\n"))
  )
  const end = async () => {
    const closed = new Promise((done) => server.close(done))
    await handler.close()
    server.closeAllConnections()
    await closed
  }
  return { server, end }
}

if (import.meta.main) {
  const [model = "model_save", port = "8813"] = argv.slice(2)
  const { server, end } = await embed(model)
  server.listen(Number(port), "127.0.0.1", () => console.log(`http://127.0.0.1:${port}/`))
  process.once("SIGTERM", end).once("SIGINT", end)
}
