/** Where the hubs and the caches are, and how patient a fetch is: by the variables that others use too. */
import { homedir } from "node:os"
import { join } from "node:path"

import * as Context from "effect/Context"

/** All that decides how files are fetched besides what is asked for. */
export interface FetchSettings {
  /** `HF_ENDPOINT`, else https://huggingface.co. */
  readonly endpoint: string
  /** `HF_TOKEN`; where that is not set, what `tokenFile` holds. */
  readonly token: string | undefined
  /** `HF_TOKEN_PATH`, else `token` in the Hugging Face folder; undefined where it must not be read. */
  readonly tokenFile: string | undefined
  /** `HF_HUB_CACHE`, else `hub` in the Hugging Face folder (`HF_HOME`, else ~/.cache/huggingface). */
  readonly cache: string
  /** `HF_HUB_OFFLINE`: only what is in the cache. */
  readonly offline: boolean
  /** `MODELSCOPE_ENDPOINT`, else https://modelscope.cn. */
  readonly modelscopeEndpoint: string
  /** `MODELSCOPE_API_TOKEN`. */
  readonly modelscopeToken: string | undefined
  /** Where files of ModelScope are kept: `chatlm/modelscope` in the user's cache folder. */
  readonly modelscopeCache: string
  /** Files at once. */
  readonly atOnce: number
  /** Failures in a row, without a byte in between, after which a file is given up. */
  readonly attempts: number
  /** Milliseconds before the second attempt; each further one waits twice as long. */
  readonly firstDelay: number
  /** Milliseconds without a byte after which a connection counts as broken (`HF_HUB_DOWNLOAD_TIMEOUT`). */
  readonly patience: number
}

/** The longest wait between two attempts, and the longest `Retry-After` that is waited for. */
export const longestDelay = 300_000

type Environment = Readonly<Record<string, string | undefined>>

const isTrue = (value: string | undefined) => /^(1|on|yes|true)$/i.test(value ?? "")

/** The settings that an environment amounts to. */
export const fetchSettings = (env: Environment): FetchSettings => {
  const home = env["HOME"] || homedir()
  const place = (path: string) =>
    path.replace(/^~(?=$|\/)/, home).replaceAll(/\$\{?(\w+)\}?/g, (whole, name) => env[name] ?? whole)
  const caches = env["XDG_CACHE_HOME"] || join(home, ".cache")
  const folder = place(env["HF_HOME"] || join(caches, "huggingface"))
  const timeout = Number(env["HF_HUB_DOWNLOAD_TIMEOUT"])
  return {
    endpoint: (env["HF_ENDPOINT"] || "https://huggingface.co").replace(/\/+$/, ""),
    token: (env["HF_TOKEN"] || env["HUGGING_FACE_HUB_TOKEN"])?.trim() || undefined,
    tokenFile: isTrue(env["HF_HUB_DISABLE_IMPLICIT_TOKEN"])
      ? undefined
      : place(env["HF_TOKEN_PATH"] || join(folder, "token")),
    cache: place(env["HF_HUB_CACHE"] || env["HUGGINGFACE_HUB_CACHE"] || join(folder, "hub")),
    offline: isTrue(env["HF_HUB_OFFLINE"]) || isTrue(env["TRANSFORMERS_OFFLINE"]),
    modelscopeEndpoint: (env["MODELSCOPE_ENDPOINT"] || "https://modelscope.cn").replace(/\/+$/, ""),
    modelscopeToken: env["MODELSCOPE_API_TOKEN"]?.trim() || undefined,
    modelscopeCache: join(caches, "chatlm", "modelscope"),
    atOnce: 4,
    attempts: 5,
    firstDelay: 1000,
    patience: timeout > 0 ? timeout * 1000 : 10_000
  }
}

/** The settings of a fetch; those of this process's environment unless others are provided. */
export const FetchSettings = Context.Reference<FetchSettings>("chatlm/fetch/FetchSettings", {
  defaultValue: () => fetchSettings(process.env)
})
