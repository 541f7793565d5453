/**
 * What a hub tells of a repository: its commit and its files with sizes and hashes. Hugging Face's documented
 * HTTP interface (huggingface.co/docs/hub/api), and anything that speaks it under `HF_ENDPOINT`.
 */
import { readFile } from "node:fs/promises"

import * as Effect from "effect/Effect"

import { attempt, makeError } from "../native/index.ts"
import type { ChatlmError } from "../native/index.ts"
import { getJson } from "./http.ts"
import type { Failure } from "./failure.ts"
import type { RepositoryKind } from "./reference.ts"
import type { FetchSettings } from "./settings.ts"

/** A file of a repository. */
export interface Listed {
  readonly path: string
  readonly size: number
  /** By which the content is known: the file's SHA-256, or git's SHA-1 of a small file. */
  readonly hash: string
  readonly kind: "sha256" | "git"
  /** What huggingface_hub also remembers of a file. */
  readonly gitId?: string
  readonly xetHash?: string
}

/** A repository at one commit. */
export interface Opened {
  readonly commit: string
  readonly files: ReadonlyArray<Listed>
  /** Whether `files` are all there are. */
  readonly whole: boolean
}

export type Asked<A> = Effect.Effect<A, Failure | ChatlmError>

export interface Hub {
  /** For messages. */
  readonly name: string
  readonly mainRevision: string
  readonly cache: string
  readonly credentials: Readonly<Record<string, string>>
  /** The commit that a revision means now; undefined where only the list of files tells. */
  readonly resolve: (kind: RepositoryKind, name: string, revision: string) => Asked<string | undefined>
  /** The files under a folder (`""`: all), at a commit or, where there is none, a revision. */
  readonly list: (kind: RepositoryKind, name: string, revision: string, folder: string) => Asked<Opened>
  readonly address: (kind: RepositoryKind, name: string, revision: string, path: string) => string
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null

/** An answer that does not say what the interface promises. */
export const unexpected = (hub: string, url: string, what: string): ChatlmError =>
  makeError("INPUT_FORMAT", `${hub} answers ${url} without ${what}`, "check the endpoint: this is no hub", {
    url
  })

/** A path that a listing may name: relative, downwards, of plain parts. */
export const checkedPath = (path: unknown): string | undefined => {
  if (typeof path !== "string" || path === "" || path.includes("\\") || path.includes("\0")) return undefined
  return path.split("/").every((part) => part !== "" && part !== "." && part !== "..") ? path : undefined
}

export const textOf = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined)

const entry = (value: unknown): Listed | undefined => {
  if (!isRecord(value) || value["type"] !== "file") return undefined
  const path = checkedPath(value["path"])
  const gitId = textOf(value["oid"])
  const lfs = isRecord(value["lfs"]) ? value["lfs"] : undefined
  const sha256 = textOf(lfs?.["oid"])?.replace(/^sha256:/, "")
  const size = lfs?.["size"] ?? value["size"]
  const hash = sha256 ?? gitId
  const shape = sha256 === undefined ? /^[0-9a-f]{40}$/ : /^[0-9a-f]{64}$/
  if (path === undefined || typeof size !== "number" || hash === undefined || !shape.test(hash))
    return undefined
  const xetHash = textOf(value["xetHash"])
  return {
    path,
    size,
    hash,
    kind: sha256 === undefined ? "git" : "sha256",
    ...(gitId === undefined ? {} : { gitId }),
    ...(xetHash === undefined ? {} : { xetHash })
  }
}

const encode = (path: string) => path.split("/").map(encodeURIComponent).join("/")

/** `HF_TOKEN`, else what `huggingface-cli login` has left. */
const tokenOf = (settings: FetchSettings): Effect.Effect<string | undefined, ChatlmError> => {
  const { token, tokenFile } = settings
  if (token !== undefined || tokenFile === undefined) return Effect.succeed(token)
  return attempt(tokenFile, async () => {
    const text = await readFile(tokenFile, "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return ""
      throw error
    })
    return text.trim() || undefined
  })
}

/** Hugging Face's hub, or what stands in for it. */
export const huggingFace = (settings: FetchSettings): Effect.Effect<Hub, ChatlmError> =>
  Effect.gen(function* () {
    const { endpoint, cache } = settings
    const token = yield* tokenOf(settings)
    const credentials: Record<string, string> =
      token === undefined ? {} : { authorization: `Bearer ${token}` }
    return {
      name: endpoint,
      mainRevision: "main",
      cache,
      credentials,
      resolve: (kind, name, revision) => {
        const url = `${endpoint}/api/${kind}s/${name}/revision/${encodeURIComponent(revision)}`
        return Effect.flatMap(getJson(url, credentials, settings), ({ value }) => {
          const sha = isRecord(value) ? textOf(value["sha"]) : undefined
          return sha !== undefined && /^[0-9a-f]{40}$/.test(sha)
            ? Effect.succeed(sha)
            : Effect.fail(unexpected(endpoint, url, "a commit"))
        })
      },
      list: (kind, name, revision, folder) =>
        Effect.gen(function* () {
          const files: Array<Listed> = []
          const place = folder === "" ? "" : `/${encode(folder)}`
          let next: string | undefined =
            `${endpoint}/api/${kind}s/${name}/tree/${encodeURIComponent(revision)}${place}?recursive=true&expand=false`
          while (next !== undefined) {
            const url: string = next
            const { value, headers } = yield* getJson(url, credentials, settings)
            if (!Array.isArray(value)) return yield* Effect.fail(unexpected(endpoint, url, "a list of files"))
            for (const one of value as ReadonlyArray<unknown>) {
              const listed = entry(one)
              if (listed !== undefined) files.push(listed)
              else if (!isRecord(one) || one["type"] === "file") {
                return yield* Effect.fail(unexpected(endpoint, url, "a path, size and hash of each file"))
              }
            }
            const link = /<([^>]+)>\s*;\s*rel="?next"?/.exec(headers.get("link") ?? "")?.[1]
            // A mirror may pass on the addresses of the hub that it mirrors.
            next = link?.replace(/^https:\/\/huggingface\.co(?=\/)/, endpoint)
            if (next !== undefined) next = new URL(next, url).href
          }
          return { commit: revision, files, whole: folder === "" }
        }),
      address: (kind, name, revision, path) =>
        `${endpoint}/${kind === "dataset" ? "datasets/" : ""}${name}/resolve/${encodeURIComponent(revision)}/${encode(path)}`
    }
  })
