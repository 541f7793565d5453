/** What a result is found by: a hash of the stage's name, version, settings and the content of its inputs. */
import { sha256 } from "./files.ts"
import type { Json, JsonObject } from "./stage.ts"

/** JSON with sorted keys, so that the order in which a user wrote them does not matter. */
export const canonical = (value: Json): string => {
  if (Array.isArray(value)) return `[${value.map((item: Json) => canonical(item)).join(",")}]`
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value as JsonObject)
      .filter(([, item]) => item !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1))
    return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonical(item)}`).join(",")}}`
  }
  return JSON.stringify(value)
}

export interface KeyParts {
  readonly stage: string
  readonly version: number
  readonly settings: JsonObject
  /** Content hashes of the inputs by name. */
  readonly inputs: Readonly<Record<string, ReadonlyArray<string>>>
}

export const keyOf = ({ stage, version, settings, inputs }: KeyParts): string =>
  sha256(canonical({ stage, version, settings, inputs }))
