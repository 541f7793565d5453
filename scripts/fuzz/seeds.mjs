// Seeds for the fuzz targets: real files cut into pieces, each behind the bytes that tell the target what to do with it.
import { createHash } from "node:crypto"
import { existsSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"

import { root } from "../lib.mjs"

const shared = resolve(process.env.CHATLM_SHARED ?? join(root, "..", "shared"))

/** Pieces of a file, and how much of a large one is enough. */
const PIECE = 2048
const MOST = 256

const files = (path) => {
  if (!existsSync(path)) return []
  if (!statSync(path).isDirectory()) return [path]
  return readdirSync(path).toSorted().flatMap((name) => files(join(path, name)))
}

const cut = (bytes) => {
  const count = Math.ceil(bytes.length / PIECE)
  const step = Math.max(1, Math.floor(count / MOST))
  const pieces = []
  for (let at = 0; at < count; at += step) pieces.push(bytes.subarray(at * PIECE, (at + 1) * PIECE))
  return pieces
}

/** Whole lines of about a piece. */
const lines = (bytes) => {
  const pieces = [[]]
  let size = 0
  for (const line of bytes.toString("latin1").split("\n")) {
    if (size + line.length > PIECE && size > 0) {
      pieces.push([])
      size = 0
    }
    pieces.at(-1).push(line)
    size += line.length
  }
  const step = Math.max(1, Math.floor(pieces.length / MOST))
  return pieces.filter((_, at) => at % step === 0).map((piece) => Buffer.from(piece.join("\n"), "latin1"))
}

const unescaped = (xml) =>
  xml.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&quot;", '"').replaceAll("&amp;", "&")

/** The pages of a dump, each a small dump of its own. */
const pages = (bytes) =>
  (bytes.toString("utf8").match(/<page>[^]*?<\/page>/g) ?? []).slice(0, MOST).map((page) => {
    const short = page.replace(/(<text[^>]*>)([^<]*)/g, (_, tag, text) => tag + text.slice(0, 600))
    return Buffer.from(`<mediawiki xml:lang="zh">${short}</mediawiki>`)
  })

/** Of a target: which files, how they are cut, behind which bytes. */
const KINDS = {
  wikitext: [
    { from: ["data/mediawiki", "seeds:wikitext"], ending: /\.(xml|txt)$/, pieces: (bytes) => cut(Buffer.from(unescaped(bytes.toString("utf8")))), modes: [[0], [14], [0], [15]] },
    { from: ["golden/clean/zhwiki", "golden/clean/zhwiki-page", "data/llamafactory/wiki_demo.txt"], ending: /\.txt$/, pieces: cut, modes: [[0]] }
  ],
  csv: [
    { from: ["data/medical_toyhom", "data/baike_qa2019", "golden/clean", "seeds:csv"], ending: /(\.csv|_gb18030\.txt)$/, pieces: lines, modes: [0, 2, 3, 4, 5, 6, 7, 11, 12, 19, 20].map((mode) => [mode]) }
  ],
  xml: [
    { from: ["data/mediawiki", "seeds:xml"], ending: /\.xml$/, pieces: pages, modes: [[5], [2], [0, 3]] },
    { from: ["golden/clean/zhwiki", "golden/clean/zhwiki-page", "seeds:xml"], ending: /\.txt$/, pieces: lines, modes: [[3], [4], [2]] },
    { from: ["seeds:xml"], ending: /\.bz2$/, pieces: (bytes) => [bytes], modes: [[1], [2]] }
  ],
  rules: [
    { from: ["data", "golden/clean", "seeds:rules"], ending: /\.jsonl$/, pieces: lines, modes: Array.from({ length: 32 }, (_, which) => [2, which]) },
    { from: ["data/belle", "data/alpaca_zh", "data/oiwiki", "data/cluecorpus", "seeds:rules"], ending: /\.(json|md|txt)$/, pieces: cut, modes: [[0], [1]] }
  ]
}

/** Writes the seeds of a target into a folder; how many, and where they come from. */
export const plant = (target, folder) => {
  let count = 0
  const names = new Set()
  for (const { from, ending, pieces, modes } of KINDS[target]) {
    let place = 0
    for (const name of from) {
      const own = name.startsWith("seeds:")
      const path = own ? join(root, "fuzz", "seeds", name.slice(6)) : join(shared, name)
      for (const file of files(path).filter((file) => ending.test(file))) {
        names.add(own ? "fuzz/seeds" : shared)
        for (const piece of pieces(readFileSync(file))) {
          // Small own seeds in every way, of the many real ones each in one.
          for (const mode of own ? modes : [modes[place++ % modes.length]]) {
            const seed = Buffer.concat([Buffer.from(mode), piece])
            writeFileSync(join(folder, createHash("sha1").update(seed).digest("hex")), seed)
            count += 1
          }
        }
      }
    }
  }
  return { count, from: [...names].join(" and ") }
}
