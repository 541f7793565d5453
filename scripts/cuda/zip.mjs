// Unpacks a zip file (a Python wheel is one) with Node alone.
import { chmodSync, mkdirSync, writeFileSync } from "node:fs"
import { dirname, join, normalize } from "node:path"
import { inflateRawSync } from "node:zlib"

const END = 0x06054b50
const ENTRY = 0x02014b50

/** Yields `{ name, mode, data }` of each file of a zip held in memory. */
export function* entries(zip) {
  let end = zip.length - 22
  while (end >= 0 && zip.readUInt32LE(end) !== END) end -= 1
  if (end < 0) throw new Error("not a zip file: it has no end record")
  let at = zip.readUInt32LE(end + 16)
  for (let left = zip.readUInt16LE(end + 10); left > 0; left -= 1) {
    if (zip.readUInt32LE(at) !== ENTRY) throw new Error("a damaged zip file: its index ends early")
    const [method, packed] = [zip.readUInt16LE(at + 10), zip.readUInt32LE(at + 20)]
    const [nameBytes, extra, comment] = [28, 30, 32].map((field) => zip.readUInt16LE(at + field))
    const mode = zip.readUInt32LE(at + 38) >>> 16
    const local = zip.readUInt32LE(at + 42)
    const name = zip.toString("utf8", at + 46, at + 46 + nameBytes)
    at += 46 + nameBytes + extra + comment
    if (name.endsWith("/")) continue
    const from = local + 30 + zip.readUInt16LE(local + 26) + zip.readUInt16LE(local + 28)
    const data = zip.subarray(from, from + packed)
    if (method !== 0 && method !== 8) throw new Error(`${name} is packed by method ${method}, which is not known here`)
    yield { name, mode, data: method === 8 ? inflateRawSync(data) : data }
  }
}

/** Writes the files below `prefix` of a zip to `folder`. Answers how many. */
export const unpack = (zip, prefix, folder) => {
  let count = 0
  for (const { name, mode, data } of entries(zip)) {
    if (!name.startsWith(prefix)) continue
    const inner = normalize(name.slice(prefix.length))
    if (inner.startsWith("..") || inner.startsWith("/")) throw new Error(`${name} would be written outside its folder`)
    const path = join(folder, inner)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, data)
    if (mode & 0o111) chmodSync(path, 0o755)
    count += 1
  }
  return count
}
