/**
 * `hf:owner/name@revision:path` and its relatives: which hub, what kind of repository, which files.
 *
 * As the ecosystem writes them: `hf:datasets/owner/name` is a data set, `hf:models/owner/name` a model, and
 * `hf://datasets/owner/name@revision/path` means the same as `hf:datasets/owner/name@revision:path`.
 */
import { makeError } from "../native/index.ts"

/** What a repository holds. */
export type RepositoryKind = "model" | "dataset"

/** Something on a hub. */
export interface Reference {
  readonly hub: "hf" | "modelscope"
  /** Undefined where the text does not say: a model is looked for first, then a data set. */
  readonly kind: RepositoryKind | undefined
  /** `owner/name`, or `name` alone for the oldest repositories. */
  readonly name: string
  /** A branch, a tag or a commit; undefined is the hub's main branch. */
  readonly revision: string | undefined
  /** A file, a folder or a glob inside the repository; undefined is all of it. */
  readonly path: string | undefined
}

const scheme = /^(hf|modelscope):(\/\/)?/

/** Whether a text names something on a hub rather than a local path. */
export const isReference = (text: string): boolean => scheme.test(text)

const kinds: Readonly<Record<string, RepositoryKind>> = { models: "model", datasets: "dataset" }

const invalid = (text: string) =>
  makeError(
    "USAGE",
    `${text} names nothing on a hub`,
    "write hf:owner/name, hf:datasets/owner/name or modelscope:owner/name, with @revision and :path where wanted",
    { reference: text }
  )

/** Takes a reference apart; throws `USAGE` for what is none. */
export const parseReference = (text: string): Reference => {
  const [start, hub, slashes] = scheme.exec(text) ?? []
  if (start === undefined || (hub !== "hf" && hub !== "modelscope")) throw invalid(text)
  // The revision may hold slashes (refs/pr/1), so the path of the long form is looked for behind it.
  const long = /^((?:models|datasets)\/)?([^/@:]+\/[^/@:]+)(?:@(refs\/[^/]+\/[^/]+|[^/:]+))?\/(.+)$/
  const short = /^((?:models|datasets)\/)?([^@:]+)(?:@([^:]+))?(?::(.*))?$/
  const rest = text.slice(start.length)
  const match = (slashes === undefined ? null : long.exec(rest)) ?? short.exec(rest)
  const [, prefix, name = "", revision, path] = match ?? []
  const part = /^(?!\.)[\w.-]+$/
  const parts = name.split("/")
  if (parts.length > 2 || !parts.every((one) => part.test(one) && !one.includes("--"))) throw invalid(text)
  return {
    hub,
    kind: prefix === undefined ? undefined : kinds[prefix.slice(0, -1)],
    name,
    revision,
    path: path === undefined || path === "" ? undefined : path.replace(/^\.?\/+|\/+$/g, "")
  }
}

/** The reference as text, for messages. */
export const showReference = ({ hub, kind, name, revision, path }: Reference): string =>
  `${hub}:${kind === "dataset" ? "datasets/" : ""}${name}` +
  `${revision === undefined ? "" : `@${revision}`}${path === undefined ? "" : `:${path}`}`
