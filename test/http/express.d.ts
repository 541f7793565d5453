/** As much of Express as the tests use; its types are a dozen packages. */
declare module "express" {
  import type { IncomingMessage, RequestListener, ServerResponse } from "node:http"

  type Handler = (request: IncomingMessage, response: ServerResponse, next: () => void) => void
  interface Application extends RequestListener {
    use(handler: Handler): void
    use(path: string, handler: Handler): void
    get(path: string, handler: Handler): void
  }
  interface Express {
    (): Application
    json(): Handler
    text(options: { readonly type: string }): Handler
  }
  const express: Express
  export default express
}
