/**
 * ModelScope as a hub. Its listings name no commit of the whole, so one is made from the paths and hashes of
 * all files: the same files are the same commit.
 */
import { createHash } from "node:crypto"

import * as Effect from "effect/Effect"

import { makeError } from "../native/index.ts"
import { checkedPath, textOf, unexpected } from "./hub.ts"
import type { Asked, Hub, Listed } from "./hub.ts"
import { broken } from "./failure.ts"
import { getJson } from "./http.ts"
import type { Failure } from "./failure.ts"
import type { RepositoryKind } from "./reference.ts"
import type { FetchSettings } from "./settings.ts"

/** A listing of models is silently cut at this length. */
const cut = 3000
/** Entries of a data set's listing that are asked for at once. */
const page = 200

interface Answer {
  readonly Code?: unknown
  readonly Message?: unknown
  readonly Data?: { readonly Files?: unknown } | null
}

const entry = (value: unknown): Listed | undefined => {
  const { Path, Size, Sha256 } = value as { Path?: unknown; Size?: unknown; Sha256?: unknown }
  const path = checkedPath(Path)
  const hash = textOf(Sha256)
  return path !== undefined && typeof Size === "number" && hash !== undefined && /^[0-9a-f]{64}$/.test(hash)
    ? { path, size: Size, hash, kind: "sha256" }
    : undefined
}

/** An error that comes as an answer: the code is in the body. */
const refused = (url: string, { Code, Message }: Answer): Failure => {
  const message = textOf(Message) ?? `code ${String(Code)}`
  const missing = /not ?(found|exist)|不存在|record/i.test(message)
  return { ...broken(url, message), status: missing ? 404 : 403, transient: false }
}

/** The hub of `modelscope:owner/name`. */
export const modelScope = (settings: FetchSettings): Hub => {
  const { modelscopeEndpoint: endpoint, modelscopeToken: token, modelscopeCache: cache } = settings
  const credentials: Record<string, string> =
    token === undefined ? {} : { authorization: `Bearer ${token}`, cookie: `m_session_id=${token}` }
  const base = (kind: RepositoryKind, name: string) => `${endpoint}/api/v1/${kind}s/${name}/repo`

  const entries = (url: string): Asked<ReadonlyArray<Record<string, unknown>>> =>
    Effect.flatMap(
      getJson(url, credentials, settings),
      ({ value }): Asked<ReadonlyArray<Record<string, unknown>>> => {
        const answer = value as Answer
        if (answer.Code !== 200) return Effect.fail(refused(url, answer))
        const files = answer.Data?.Files ?? []
        return Array.isArray(files)
          ? Effect.succeed(files as ReadonlyArray<Record<string, unknown>>)
          : Effect.fail(unexpected(endpoint, url, "a list of files"))
      }
    )

  const all = (
    kind: RepositoryKind,
    name: string,
    revision: string
  ): Asked<ReadonlyArray<Record<string, unknown>>> =>
    Effect.gen(function* () {
      if (kind === "model") {
        const query = new URLSearchParams({ Revision: revision, Recursive: "true" })
        const found = yield* entries(`${base(kind, name)}/files?${query.toString()}`)
        if (found.length < cut) return found
        return yield* Effect.fail(
          makeError(
            "INPUT_FORMAT",
            `modelscope:${name} has ${cut} files or more, and ModelScope lists no more`,
            "fetch it from Hugging Face, or with ModelScope's own program",
            { reference: `modelscope:${name}` }
          )
        )
      }
      const found: Array<Record<string, unknown>> = []
      for (let number = 1; ; number += 1) {
        const query = new URLSearchParams({
          Revision: revision,
          Root: "/",
          Recursive: "true",
          PageNumber: String(number),
          PageSize: String(page)
        })
        const some = yield* entries(`${base(kind, name)}/tree?${query.toString()}`)
        found.push(...some)
        if (some.length < page) return found
      }
    })

  return {
    name: endpoint,
    mainRevision: "master",
    cache,
    credentials,
    resolve: () => Effect.succeed(undefined),
    list: (kind, name, revision) =>
      Effect.gen(function* () {
        const files: Array<Listed> = []
        for (const one of yield* all(kind, name, revision)) {
          if (one["Type"] === "tree") continue
          const listed = entry(one)
          if (listed === undefined) {
            return yield* Effect.fail(
              unexpected(endpoint, base(kind, name), "a path, size and hash of each file")
            )
          }
          files.push(listed)
        }
        files.sort((a, b) => (a.path < b.path ? -1 : 1))
        const hash = createHash("sha256")
        for (const { path, hash: content } of files) hash.update(`${path}\0${content}\n`)
        return { commit: hash.digest("hex").slice(0, 40), files, whole: true }
      }),
    address: (kind, name, revision, path) => {
      const query = new URLSearchParams({ Revision: revision, FilePath: path })
      if (kind === "dataset") query.set("Source", "SDK")
      return `${base(kind, name)}?${query.toString()}`
    }
  }
}
