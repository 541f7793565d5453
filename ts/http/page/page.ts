/**
 * The chat page at `/` and its three files, read once from `dist/page` (made from `page/` by `npm run build`). The
 * page talks to `/v1` as any other client does: nothing of the server is known here.
 */
import { createHash } from "node:crypto"
import { existsSync, readFileSync } from "node:fs"

import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import type { HttpServerRequest } from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"

/** The same from the sources and from `dist`. */
const folder = new URL("../../../dist/page/", import.meta.url)

const files = [
  ["/", "index.html", "text/html; charset=utf-8"],
  ["/app.js", "app.js", "text/javascript; charset=utf-8"],
  ["/style.css", "style.css", "text/css; charset=utf-8"],
  ["/icon.svg", "icon.svg", "image/svg+xml"]
] as const

/** Nothing but the page's own files and this server; nothing inline; text cannot become HTML. */
const policy = [
  "default-src 'none'",
  ...["script-src", "style-src", "img-src", "connect-src"].map((kind) => `${kind} 'self'`),
  ...["base-uri", "form-action", "frame-ancestors"].map((kind) => `${kind} 'none'`),
  "require-trusted-types-for 'script'",
  "trusted-types 'none'"
].join("; ")

const headers = {
  "content-security-policy": policy,
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
  // Asked for again each time, answered by 304: a new server brings a new page at once.
  "cache-control": "no-cache"
}

const missing = HttpServerResponse.text("the page is not built: run npm run build", { status: 404 })

const serveFile = (name: string, contentType: string) => {
  const path = new URL(name, folder)
  if (!existsSync(path)) return () => Effect.succeed(missing)
  const body = new Uint8Array(readFileSync(path))
  const etag = `"${createHash("sha256").update(body).digest("base64url").slice(0, 22)}"`
  const all = { ...headers, etag }
  return (request: HttpServerRequest) => {
    const known = (request.headers["if-none-match"] ?? "")
      .split(",")
      .map((tag) => tag.trim().replace(/^W\//, ""))
    return Effect.succeed(
      known.includes(etag)
        ? HttpServerResponse.empty({ status: 304, headers: all })
        : HttpServerResponse.uint8Array(body, { contentType, headers: all })
    )
  }
}

export const page = HttpRouter.addAll(
  Effect.sync(() => files.map(([path, name, type]) => HttpRouter.route("GET", path, serveFile(name, type))))
)
