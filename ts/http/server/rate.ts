/**
 * Requests a minute for each client: a bucket that a minute fills, as one number a client (the generic cell rate
 * algorithm of ATM Forum's TM 4.0). Effect's RateLimiter keeps every key for ever in its memory store, which strangers
 * could fill; here a client whose bucket is full again is forgotten.
 */

const minute = 60_000

export interface RateLimit {
  /** Counts a request of a client at a time in milliseconds; answers how long it has to wait, 0 where it may pass. */
  readonly take: (client: string, now: number) => number
  /** Clients that are remembered. */
  readonly size: () => number
}

export const makeRateLimit = (perMinute: number): RateLimit => {
  const each = minute / perMinute
  /** When a client's bucket is full again. */
  const full = new Map<string, number>()
  let sweepAt = 1024
  const sweep = (now: number) => {
    for (const [client, at] of full) if (at <= now) full.delete(client)
    // Twice what is left: the work of sweeping is a constant for each new client.
    sweepAt = Math.max(1024, 2 * full.size)
  }
  return {
    take: (client, now) => {
      if (full.size >= sweepAt) sweep(now)
      const next = Math.max(now, full.get(client) ?? 0) + each
      const early = next - now - minute
      // A little room for sums of fractions.
      if (early > 1e-6) return early
      full.set(client, next)
      return 0
    },
    size: () => full.size
  }
}

/** Addresses that one client has at will count as one: of IPv6 the network of 64 bits. */
export const addressGroup = (address: string): string => {
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, "").replace(/%.*$/, "")
  if (!plain.includes(":")) return plain
  const [before = "", after] = plain.split("::")
  const head = before === "" ? [] : before.split(":")
  const tail = after === undefined || after === "" ? [] : after.split(":")
  const zeros = after === undefined ? [] : Array.from({ length: 8 - head.length - tail.length }, () => "0")
  const parts = [...head, ...zeros, ...tail].slice(0, 4)
  return `${parts.map((part) => Number.parseInt(part, 16).toString(16)).join(":")}::/64`
}
