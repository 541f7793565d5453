/**
 * A hub on this machine that behaves as Hugging Face's does, and as ModelScope's under `/api/v1`: commits,
 * listings in pages, large files behind a redirect to another host, small ones behind a relative redirect,
 * ranges; and on demand what goes wrong out there.
 */
import { createHash } from "node:crypto"
import { createServer } from "node:http"
import type { IncomingMessage, Server, ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

export interface Repository {
  readonly kind: "model" | "dataset"
  readonly name: string
  readonly files: Readonly<Record<string, string | Buffer>>
  /** Only for those with this token. */
  readonly token?: string
  readonly gated?: boolean
  /** Branches and tags beside `main`. */
  readonly refs?: Readonly<Record<string, string>>
  readonly commit?: string
}

/** What is done to the next requests whose path matches, instead of answering them or to their answers. */
export interface Fault {
  readonly match: RegExp
  times: number
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  /** Cuts the connection after so many bytes of the body. */
  readonly cutAfter?: number
  /** Stops sending after so many bytes, and holds the connection. */
  readonly stallAfter?: number
  readonly ignoreRange?: boolean
  /** Sends other bytes of the same length. */
  readonly corrupt?: boolean
  readonly extraBytes?: number
}

export interface Request {
  readonly method: string
  readonly host: "hub" | "cdn"
  readonly path: string
  readonly range: string | undefined
  readonly authorization: string | undefined
  readonly cookie: string | undefined
}

export const mainCommit = "1".repeat(40)
/** Files from this size on are LFS files. */
const large = 100
const pageSize = 2

const bytesOf = (content: string | Buffer) => (typeof content === "string" ? Buffer.from(content) : content)
const sha256 = (content: Buffer) => createHash("sha256").update(content).digest("hex")
const gitId = (content: Buffer) =>
  createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex")

const listen = async (server: Server): Promise<string> => {
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

export class TestHub {
  readonly requests: Array<Request> = []
  readonly faults: Array<Fault> = []
  readonly repositories: Array<Repository> = []
  address = ""
  private cdn = ""
  private readonly servers: ReadonlyArray<Server>

  constructor() {
    this.servers = (["hub", "cdn"] as const).map((host) =>
      createServer((request, response) => {
        const url = new URL(request.url ?? "/", "http://x")
        this.requests.push({
          method: request.method ?? "",
          host,
          path: decodeURIComponent(url.pathname) + url.search,
          range: request.headers.range,
          authorization: request.headers.authorization,
          cookie: request.headers.cookie
        })
        const fault = this.faults.find(
          ({ match, times }) => times > 0 && match.test(decodeURIComponent(request.url ?? ""))
        )
        if (fault !== undefined) fault.times -= 1
        if (fault?.status !== undefined) {
          response.writeHead(fault.status, fault.headers).end()
        } else if (host === "cdn") this.content(request, response, url, fault)
        else if (url.pathname.startsWith("/api/v1/")) this.modelScope(request, response, url, fault)
        else this.huggingFace(request, response, url, fault)
      })
    )
  }

  async start(): Promise<this> {
    const [hub, cdn] = await Promise.all(this.servers.map(listen))
    this.address = hub ?? ""
    // Another host name: credentials for the first must not go there.
    this.cdn = (cdn ?? "").replace("127.0.0.1", "localhost")
    return this
  }

  stop(): Promise<unknown> {
    for (const server of this.servers) server.closeAllConnections()
    return Promise.all(this.servers.map((server) => new Promise((done) => server.close(done))))
  }

  reset(): void {
    this.requests.length = 0
    this.faults.length = 0
    this.repositories.length = 0
  }

  /** Requests for the content of a file, wherever they went. */
  contents(): ReadonlyArray<Request> {
    return this.requests.filter(
      ({ method, host, path }) => method === "GET" && (host === "cdn" || path.startsWith("/raw/"))
    )
  }

  private huggingFace(request: IncomingMessage, response: ServerResponse, url: URL, fault?: Fault) {
    const path = decodeURIComponent(url.pathname)
    if (path.startsWith("/raw/")) return this.content(request, response, url, fault)
    const api = /^\/api\/(model|dataset)s\/([^/]+\/[^/]+)\/(revision|tree)\/([^/]+)(?:\/(.*))?$/.exec(
      url.pathname
    )
    const file = /^\/(datasets\/)?([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(url.pathname)
    const kind = api?.[1] ?? (file?.[1] === undefined ? "model" : "dataset")
    const name = api?.[2] ?? file?.[2]
    const refuse = (status: number, code?: string, message?: string) =>
      response
        .writeHead(status, {
          ...(code === undefined ? {} : { "x-error-code": code }),
          ...(message === undefined ? {} : { "x-error-message": message })
        })
        .end(JSON.stringify({ error: message }))
    const found = this.repositories.find((one) => one.kind === kind && one.name === name)
    const key = request.headers.authorization
    if (
      found === undefined ||
      (found.token !== undefined && key !== `Bearer ${found.token}` && found.gated !== true)
    ) {
      return key === undefined
        ? refuse(401, undefined, "Invalid username or password.")
        : refuse(404, "RepoNotFound", "Repository not found")
    }
    const commit = found.commit ?? mainCommit
    const revision = decodeURIComponent(api?.[4] ?? file?.[3] ?? "")
    const known = { main: commit, [commit]: commit, ...found.refs }[revision]
    if (known === undefined) return refuse(404, "RevisionNotFound", `Invalid rev id: ${revision}`)
    const json = (value: unknown, headers = {}) =>
      response.writeHead(200, { "content-type": "application/json", ...headers }).end(JSON.stringify(value))
    if (api?.[3] === "revision") return json({ id: found.name, sha: known, siblings: [] })
    if (api?.[3] === "tree") {
      const folder = decodeURIComponent(api[5] ?? "")
      const all = Object.entries(found.files)
        .filter(([path]) => folder === "" || path.startsWith(`${folder}/`))
        .flatMap(([path, content]) => [entry(path, bytesOf(content)), ...folderEntry(path)])
      if (all.length === 0) return refuse(404, "EntryNotFound", `${folder} does not exist`)
      const from = Number(url.searchParams.get("cursor") ?? "0")
      const next = new URL(url.pathname + url.search, this.address)
      next.searchParams.set("cursor", String(from + pageSize))
      const more = from + pageSize < all.length
      return json(all.slice(from, from + pageSize), more ? { link: `<${next.href}>; rel="next"` } : {})
    }
    if (found.gated === true && key !== `Bearer ${found.token ?? ""}`) {
      return refuse(
        key === undefined ? 401 : 403,
        "GatedRepo",
        `Access to model ${found.name} is restricted.`
      )
    }
    const name4 = decodeURIComponent(file?.[4] ?? "")
    const content = found.files[name4]
    if (content === undefined) return refuse(404, "EntryNotFound", `${name4} does not exist`)
    const bytes = bytesOf(content)
    const big = bytes.length >= large
    const place = `raw/${kind}/${found.name}/${name4}`
    response
      .writeHead(big ? 302 : 307, {
        "x-repo-commit": known,
        "x-linked-size": String(bytes.length),
        "x-linked-etag": `"${big ? sha256(bytes) : gitId(bytes)}"`,
        etag: `"${big ? sha256(bytes) : gitId(bytes)}"`,
        location: big ? `${this.cdn}/${encodeURI(place)}?signature=1` : `/${encodeURI(place)}`
      })
      .end()
  }

  private modelScope(request: IncomingMessage, response: ServerResponse, url: URL, fault?: Fault) {
    const [, kind, name, rest] =
      /^\/api\/v1\/(model|dataset)s\/([^/]+\/[^/]+)\/repo(\/files|\/tree)?$/.exec(url.pathname) ?? []
    const found = this.repositories.find((one) => one.kind === kind && one.name === name)
    const json = (value: unknown) =>
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value))
    if (found === undefined) return json({ Code: 10010205001, Message: "Record not found", Success: false })
    if (rest !== undefined) {
      const files = Object.entries(found.files).map(([Path, content]) => ({
        Name: Path.split("/").at(-1),
        Path,
        Type: "blob",
        Size: bytesOf(content).length,
        Sha256: sha256(bytesOf(content))
      }))
      const page = Number(url.searchParams.get("PageNumber") ?? "1")
      return json({
        Code: 200,
        Data: { Files: page > 1 ? [] : [...files, { Path: "folder", Type: "tree" }] }
      })
    }
    this.send(request, response, bytesOf(found.files[url.searchParams.get("FilePath") ?? ""] ?? ""), fault)
  }

  private content(request: IncomingMessage, response: ServerResponse, url: URL, fault?: Fault) {
    const [, kind, name, path = ""] =
      /^\/raw\/(model|dataset)\/([^/]+\/[^/]+)\/(.+)$/.exec(decodeURIComponent(url.pathname)) ?? []
    const found = this.repositories.find((one) => one.kind === kind && one.name === name)
    this.send(request, response, bytesOf(found?.files[path] ?? ""), fault)
  }

  private send(request: IncomingMessage, response: ServerResponse, whole: Buffer, fault?: Fault) {
    const from =
      fault?.ignoreRange === true ? undefined : /^bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1]
    const start = Number(from ?? 0)
    if (from !== undefined && start >= whole.length) {
      response.writeHead(416, { "content-range": `bytes */${whole.length}` }).end()
      return
    }
    const commit = {
      "x-repo-commit": mainCommit,
      etag: `"${whole.length >= large ? sha256(whole) : gitId(whole)}"`
    }
    const honest = whole.subarray(start)
    const sent = fault?.corrupt === true ? Buffer.alloc(honest.length, "x") : honest
    const range =
      from === undefined ? {} : { "content-range": `bytes ${start}-${whole.length - 1}/${whole.length}` }
    const extra = fault?.extraBytes ?? 0
    response.writeHead(from === undefined ? 200 : 206, {
      ...commit,
      "content-length": String(sent.length + extra),
      ...range
    })
    if (request.method === "HEAD") return void response.end()
    if (fault?.cutAfter !== undefined) {
      response.write(sent.subarray(0, fault.cutAfter), () => setTimeout(() => response.destroy(), 20))
    } else if (fault?.stallAfter !== undefined) response.write(sent.subarray(0, fault.stallAfter))
    else response.end(Buffer.concat([sent, Buffer.alloc(extra)]))
  }
}

const entry = (path: string, content: Buffer) => ({
  type: "file",
  path,
  size: content.length,
  oid: gitId(content),
  ...(content.length >= large
    ? { oid: "f".repeat(40), lfs: { oid: sha256(content), size: content.length, pointerSize: 134 } }
    : {})
})

/** The hub lists folders too. */
const folderEntry = (path: string) =>
  path.includes("/")
    ? [{ type: "directory", path: path.slice(0, path.lastIndexOf("/")), oid: "0", size: 0 }]
    : []
