/** Whether a bearer key is one of those that are asked for, and whose a request is. */
import { createHash, timingSafeEqual } from "node:crypto"

const digest = (text: string) => createHash("sha256").update(text).digest()

/**
 * Hashes have one length and every key is looked at, so the comparison takes as long for any wrong key. Where no
 * keys are set, any bearer passes.
 */
export const keyCheck = (keys: ReadonlyArray<string>): ((credential: string) => boolean) => {
  const known = keys.map(digest)
  return (credential) => {
    const asked = digest(credential)
    let found = known.length === 0
    for (const key of known) found = timingSafeEqual(asked, key) || found
    return found
  }
}

/**
 * Who asks, for taking turns: the key's hash where keys are asked for, else the address. A key that nobody checks is
 * not looked at: a client could make up another each time.
 */
export const clientOf = (
  keys: ReadonlyArray<string>,
  authorization: string | undefined,
  address: string | undefined
): string =>
  keys.length > 0 && authorization !== undefined
    ? digest(authorization.replace(/^bearer\s+/i, "")).toString("hex")
    : (address ?? "")
