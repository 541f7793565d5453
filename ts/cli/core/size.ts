/** Sizes of memory as they are written: `800MiB`, `1.5GiB`, `2GB`, or plain bytes. */
import * as Flag from "effect/cli/Flag"

const units: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40
}

/** The bytes that a size means; nothing where it is no size. */
export const parseSize = (text: string): number | undefined => {
  const [, digits, unit] = /^(\d+(?:\.\d+)?) *([a-z]*)$/i.exec(text.trim()) ?? []
  const factor = units[(unit ?? "").toLowerCase()]
  const bytes =
    digits === undefined || factor === undefined ? Number.NaN : Math.round(Number(digits) * factor)
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : undefined
}

/** `1.25 GiB`. */
export const sizeText = (bytes: number): string => {
  const power = Math.min(4, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)))
  const value = bytes / 1024 ** power
  const digits = value >= 100 || power === 0 ? 0 : value >= 10 ? 1 : 2
  return `${value.toFixed(digits)} ${["B", "KiB", "MiB", "GiB", "TiB"][power] ?? ""}`
}

/** A flag of a size, in bytes. */
export const sizeFlag = (name: string, description: string) =>
  Flag.String(name).pipe(
    Flag.withMetavar("SIZE"),
    Flag.withDescription(description),
    Flag.mapTryCatch(
      (text) => {
        const bytes = parseSize(text)
        if (bytes === undefined) throw new Error(text)
        return bytes
      },
      (error) => `must be a size such as 800MiB or 2GiB, not ${error instanceof Error ? error.message : ""}`
    ),
    Flag.optional
  )

/** `--max-memory SIZE`, in bytes. */
export const maxMemory = (otherwise: string) =>
  sizeFlag("max-memory", `Memory the process may hold, such as 2GiB (default: ${otherwise})`)
