// The page as files over HTTP: types, headers, sizes.
import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { start } from "./support.ts"
import type { Started } from "./support.ts"

const files = [
  ["", "text/html; charset=utf-8"],
  ["app.js", "text/javascript; charset=utf-8"],
  ["style.css", "text/css; charset=utf-8"],
  ["icon.svg", "image/svg+xml"]
] as const

describe("the page's files", () => {
  let server: Started
  beforeAll(async () => {
    server = await start({ apiKeys: ["secret"] })
  })
  afterAll(() => server.stop())

  it("are served without a key, with their types and a strict policy", async () => {
    for (const [name, type] of files) {
      const response = await fetch(server.url + name)
      expect([name, response.status, response.headers.get("content-type")]).toEqual([name, 200, type])
      const policy = response.headers.get("content-security-policy") ?? ""
      expect(policy).toContain("default-src 'none'; script-src 'self'; style-src 'self'")
      expect(policy).toContain("frame-ancestors 'none'")
      expect(policy).not.toMatch(/unsafe|\*|https?:|data:/)
      expect(response.headers.get("x-content-type-options")).toBe("nosniff")
    }
  })

  it("have an ETag that answers 304", async () => {
    for (const [name] of files) {
      const etag = (await fetch(server.url + name)).headers.get("etag") ?? ""
      expect(etag).toMatch(/^"[\w-]{22}"$/)
      for (const [known, status] of [
        [etag, 304],
        [`"other", W/${etag}`, 304],
        [`"other"`, 200]
      ] as const) {
        const response = await fetch(server.url + name, { headers: { "if-none-match": known } })
        expect([name, known, response.status]).toEqual([name, known, status])
        expect((await response.arrayBuffer()).byteLength > 0).toBe(status === 200)
      }
    }
  })

  it("weigh at most 150 KB together and name nothing outside", async () => {
    let bytes = 0
    for (const [name] of files) {
      const text = await (await fetch(server.url + name)).text()
      bytes += Buffer.byteLength(text)
      // Names of XML's own spaces are no addresses.
      const addresses = [...text.matchAll(/(?:https?:)?\/\/[a-z][\w.-]+\.[a-z]{2,}[^\s"'`)]*/g)].map(
        ([found]) => found
      )
      expect(addresses.filter((found) => !found.includes("//www.w3.org/"))).toEqual([])
    }
    expect(bytes).toBeLessThanOrEqual(150_000)
  })
})
