/**
 * The check of the `Host` header against rebound names: a page of a stranger whose name leads to 127.0.0.1 would else
 * count as this server's own, and could ask whatever listens here alone. Its requests name the stranger's host.
 */

/** The name of a `Host` header, without its port; undefined where it is none. */
const nameOf = (host: string): string | undefined =>
  /^(\[[\da-f:.]+\]|[^\s:/@[\]]+)(?::\d{1,5})?$/i.exec(host)?.[1]?.toLowerCase().replace(/\.$/, "")

const loopback = ["localhost", "127.0.0.1", "[::1]"]

const isLoopback = (address: string) =>
  address === "localhost" || address === "::1" || /^127(\.\d{1,3}){3}$/.test(address)

const bracketed = (address: string) => (address.includes(":") ? `[${address}]` : address)

/**
 * The hosts under which a server may be asked that listens on `address`; undefined where any will do: whoever opens a
 * server to a network has no need of being on it.
 */
export const hostsOf = (
  address: string,
  allowed: ReadonlyArray<string>
): ReadonlyArray<string> | undefined => {
  if (allowed.includes("*") || (allowed.length === 0 && !isLoopback(address))) return undefined
  return [...loopback, bracketed(address), ...allowed]
}

/** Whether a `Host` header names one of the hosts, on any port. */
export const hostCheck = (hosts: ReadonlyArray<string>): ((host: string | undefined) => boolean) => {
  const known = new Set(hosts.map(nameOf))
  return (host) => {
    const name = nameOf(host ?? "")
    return name !== undefined && known.has(name)
  }
}
