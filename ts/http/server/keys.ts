/** Whether a bearer key is one of those that are asked for, and whose a request is. */
import { createHash, timingSafeEqual } from "node:crypto"

const digest = (text: string) => createHash("sha256").update(text).digest()

/**
 * Which of the keys a credential is; undefined where it is none of them. Hashes have one length and every key is
 * looked at, so the comparison takes as long for any wrong key.
 */
export const keyIndex = (keys: ReadonlyArray<string>): ((credential: string) => number | undefined) => {
  const known = keys.map(digest)
  return (credential) => {
    const asked = digest(credential)
    let found: number | undefined
    for (const [place, key] of known.entries()) {
      if (timingSafeEqual(asked, key)) found ??= place
    }
    return found
  }
}

/** Where no keys are set, any bearer passes. */
export const keyCheck = (keys: ReadonlyArray<string>): ((credential: string) => boolean) => {
  const index = keyIndex(keys)
  return (credential) => index(credential) !== undefined || keys.length === 0
}

/** What stands behind `Bearer` in a header. */
export const credentialOf = (authorization: string | undefined): string | undefined =>
  /^bearer +(.*)$/i.exec(authorization ?? "")?.[1]

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
