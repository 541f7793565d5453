/** What can be said of a body before it is parsed, in one pass over its bytes. */
import { isUtf8 } from "node:buffer"

/** No call has more than five levels; unknown fields may have some of their own. */
export const deepest = 64

const [quote, backslash, comma] = [0x22, 0x5c, 0x2c]
const opens = (byte: number) => byte === 0x5b || byte === 0x7b
const closes = (byte: number) => byte === 0x5d || byte === 0x7d

/** Whether JSON nests deeper than `limit`. V8 parses any depth, but half a million levels hold it up for 0.3 s. */
export const isDeeperThan = (bytes: Uint8Array, limit: number): boolean => {
  let depth = 0
  let inText = false
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at] ?? comma
    if (inText) {
      if (byte === backslash) at += 1
      else if (byte === quote) inText = false
    } else if (byte === quote) inText = true
    else if (opens(byte)) {
      depth += 1
      if (depth > limit) return true
    } else if (closes(byte)) depth -= 1
  }
  return false
}

/** What is wrong with a body; undefined where it may be parsed. */
export const faultOf = (bytes: Uint8Array): string | undefined => {
  if (!isUtf8(bytes)) return "the body is not UTF-8"
  if (isDeeperThan(bytes, deepest)) return `the body nests deeper than ${deepest} levels`
  return undefined
}
