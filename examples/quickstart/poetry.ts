/**
 * The quickstart's input: the npm package chinese-poetry (MIT), fetched once into the user's cache, and
 * its poems as prompts and answers. Nothing here knows of training.
 */
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { createReadStream, existsSync } from "node:fs"
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises"
import { homedir } from "node:os"
import { join } from "node:path"
import { pipeline as flow } from "node:stream/promises"

import { makeError } from "chatlm"

/** Pinned: a changed package is refused, so that everyone trains on the same bytes. */
export const pinned = {
  name: "chinese-poetry",
  version: "2.0.1",
  integrity: "sha512-KtYARvV7CWNtax0na9+Jn6PlhGgSoid7PWyDzXI4KsCEm2odZcqEQyval5koaLygZnM/EQ3lfJ//25K8p3uHNg=="
} as const

/** 190 of the package's 350 MB: Tang and Song poems, how often they are asked for, the poets' lives. */
const needed =
  /^package\/(LICENSE|dist\/(quantangshi\/(poet\.(tang|song)\.\d+|authors\.tang)\.json|rank\/poet\/[^/]+\.json|songci\/author\.song\.json))$/

const cacheFolder = () => join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "chatlm", "sources")

const run = (command: string, args: ReadonlyArray<string>, signal: AbortSignal) =>
  new Promise<void>((done, failed) => {
    const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"], signal })
    let said = ""
    child.stderr.on("data", (chunk) => (said += String(chunk)))
    child.on("error", failed)
    child.on("close", (status) =>
      status === 0
        ? done()
        : failed(
            makeError(
              "IO",
              `npm could not fetch ${pinned.name}@${pinned.version}: ${said.trim().split("\n").at(-1) ?? ""}`,
              "check that npm reaches its registry, then run this again",
              { package: pinned.name }
            )
          )
    )
  })

const integrityOf = async (file: string) => {
  const hash = createHash("sha512")
  await flow(createReadStream(file), hash)
  return `sha512-${hash.digest("base64")}`
}

/** The folder of the unpacked package; fetched where it is not in the cache yet. */
export const fetchPoetry = async (signal: AbortSignal): Promise<string> => {
  const sources = cacheFolder()
  const folder = join(sources, `${pinned.name}-${pinned.version}`)
  // Renamed into place whole, so that a folder that is there is complete.
  if (existsSync(folder)) return folder
  await mkdir(sources, { recursive: true })
  const work = await mkdtemp(join(sources, "fetching-"))
  try {
    await run(
      "npm",
      ["pack", `${pinned.name}@${pinned.version}`, "--pack-destination", work, "--silent"],
      signal
    )
    const file = join(work, (await readdir(work)).find((name) => name.endsWith(".tgz")) ?? "missing.tgz")
    const integrity = await integrityOf(file)
    if (integrity !== pinned.integrity) {
      throw makeError(
        "INPUT_FORMAT",
        `${pinned.name}@${pinned.version} has the integrity ${integrity}, not the pinned one`,
        "the registry or a mirror serves another file: check npm's registry setting",
        { package: pinned.name }
      )
    }
    signal.throwIfAborted()
    const unpacked = join(work, "unpacked")
    await mkdir(unpacked)
    const { extract } = await import("tar")
    await extract({ file, cwd: unpacked, filter: (path) => needed.test(path) })
    await rename(join(unpacked, "package"), folder).catch((error: NodeJS.ErrnoException) => {
      // Somebody else was faster; theirs is as good.
      if (!existsSync(folder)) throw error
    })
    return folder
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

interface Poem {
  readonly dynasty: "唐代" | "宋代"
  readonly author: string
  readonly title: string
  /** Couplets, `床前看月光，疑是地上霜。` */
  readonly couplets: ReadonlyArray<string>
  readonly text: string
  /** In one of the anthologies that children learn from, or in a school book. */
  readonly school: boolean
  /** How often five search engines found it: the sum of the logarithms. */
  readonly rank: number
}

export interface Row {
  readonly question: string
  readonly answer: string
}

type Convert = (text: string) => string

const engines = ["baidu", "so360", "bing", "bing_en", "google"] as const
const schoolTag = /三百|小学|初中|高中/
/** Quatrains, four lines of five or seven characters: short enough to be learned in minutes. */
const regular = (text: string) => {
  const lines = text.split(/[，。？！；、]/).filter((line) => line !== "")
  const length = lines[0]?.length ?? 0
  return (
    /^[\u4e00-\u9fff，。？！；、]+$/u.test(text) &&
    lines.length === 4 &&
    (length === 5 || length === 7) &&
    lines.every((line) => line.length === length)
  )
}

/** `清平調 三` and `飲湖上  其二` as readers write them: `清平调·其三`. */
const titleOf = (title: string) =>
  title.replace(/\s+其?([一二三四五六七八九十百]+)$/u, "·其$1").replaceAll(/\s+/g, "")

/** The package is pinned by its hash, so its files hold what they held when this was written. */
const json = async <A>(file: string): Promise<ReadonlyArray<A>> =>
  JSON.parse(await readFile(file, "utf8")) as ReadonlyArray<A>

interface RawPoem {
  readonly author: string
  readonly title: string
  readonly paragraphs: ReadonlyArray<string>
  readonly tags?: ReadonlyArray<string>
}
type RawRank = { readonly author: string; readonly title: string } & {
  readonly [engine in (typeof engines)[number]]?: number
}

/** The regular poems that the package knows enough of to have tagged them, the best known first. */
const readPoems = async (folder: string, convert: Convert, signal: AbortSignal) => {
  const found: Array<Poem> = []
  for (const [period, dynasty] of [
    ["tang", "唐代"],
    ["song", "宋代"]
  ] as const) {
    const names = (await readdir(join(folder, "dist/quantangshi")))
      .filter((name) => name.startsWith(`poet.${period}.`))
      .sort((a, b) => Number(a.split(".")[2]) - Number(b.split(".")[2]))
    for (const name of names) {
      signal.throwIfAborted()
      const poems = (await json<RawPoem>(join(folder, "dist/quantangshi", name))).filter(
        ({ tags = [], paragraphs }) => tags.length > 0 && regular(paragraphs.join(""))
      )
      if (poems.length === 0) continue
      const rankFile = join(folder, "dist/rank/poet", name.replace(/(\d+)\.json$/, "rank.$1.json"))
      const ranks = new Map<string, number>(
        (await json<RawRank>(rankFile)).map((entry) => [
          `${entry.author}/${entry.title}`,
          engines.reduce((sum, engine) => sum + Math.log1p(entry[engine] ?? 0), 0)
        ])
      )
      for (const poem of poems) {
        const text = convert(poem.paragraphs.join(""))
        found.push({
          dynasty,
          author: convert(poem.author),
          title: titleOf(convert(poem.title)),
          couplets: poem.paragraphs.map(convert),
          text,
          school: (poem.tags ?? []).some((tag) => schoolTag.test(tag)),
          rank: ranks.get(`${poem.author}/${poem.title}`) ?? 0
        })
      }
    }
  }
  // Ties by text, so that the order does not hang on that of the files.
  return found.sort((a, b) => b.rank - a.rank || (a.text < b.text ? -1 : a.text > b.text ? 1 : 0))
}

/** Whole sentences from the beginning, as many as fit. */
const beginning = (text: string, limit: number) => {
  let end = 0
  for (const match of text.matchAll(/[。！？]/gu)) {
    if (match.index >= limit) break
    end = match.index + 1
  }
  return text.slice(0, end)
}

/** What the package tells of the poets' lives. */
const readLives = async (folder: string, convert: Convert) => {
  const lives = new Map<string, string>()
  const add = (name: string, text: string) => {
    const plain = convert(text).replaceAll(/\s+/g, "").replaceAll("(", "（").replaceAll(")", "）")
    const named = plain.replace(new RegExp(`^(${convert(name)}：|--)`), convert(name))
    const life = beginning(named, 40)
    if (life.length >= 12 && /^[\u4e00-\u9fff，。？！；、：（）《》“”·\d－～-]+$/u.test(life))
      lives.set(convert(name), life)
  }
  const tang = join(folder, "dist/quantangshi/authors.tang.json")
  for (const { name, desc } of await json<{ name: string; desc: string }>(tang)) add(name, desc)
  // Modern prose, so it goes over the Tang book's where a poet stands in both.
  const song = join(folder, "dist/songci/author.song.json")
  for (const { name, description } of await json<{ name: string; description: string }>(song))
    add(name, description)
  return lives
}

const recite = (poem: Poem): Row => ({
  question: `请背诵${poem.author}的《${poem.title}》`,
  answer: poem.text
})
const author = (poem: Poem): Row => ({
  question: `《${poem.title}》是谁写的？`,
  answer: `是${poem.dynasty}诗人${poem.author}的作品。`
})
/** What else one may ask about a poem whose title is its own. */
const facts = (poem: Poem): ReadonlyArray<Row> => {
  const [first = ""] = poem.text.split(/[，。？！；]/u)
  return [
    { question: `《${poem.title}》的第一句是什么？`, answer: `第一句是“${first}”。` },
    { question: `《${poem.title}》是哪个朝代的诗？`, answer: `是${poem.dynasty}的诗。` },
    {
      question: `《${poem.title}》是几言诗？`,
      answer: `是一首${first.length === 5 ? "五" : "七"}言绝句。`
    },
    {
      question: `“${first}”出自哪首诗？`,
      answer: `出自${poem.dynasty}诗人${poem.author}的《${poem.title}》。`
    }
  ]
}
const nextLine = (poem: Poem, index: number): ReadonlyArray<Row> => {
  const [first, second] = (poem.couplets[index % poem.couplets.length] ?? "").split("，")
  if (first === undefined || second === undefined || second === "") return []
  return [
    {
      question: `“${first}”的下一句是什么？`,
      answer: `下一句是“${second.slice(0, first.length)}”。`
    }
  ]
}

export interface Sizes {
  /** Poems that the model reads in pre-training. */
  readonly poems: number
  /** Best-known poems that it is to learn by heart. */
  readonly famous: number
}

export interface Material {
  /** For pre-training: recitation, authors, lines that follow, lives. */
  readonly reading: ReadonlyArray<Row>
  /** For fine-tuning: the best-known poems. */
  readonly famous: ReadonlyArray<Row>
}

/** All prompts and answers, in simplified characters; the same sizes give the same rows. */
export const makeRows = async (folder: string, sizes: Sizes, signal: AbortSignal): Promise<Material> => {
  const { Converter } = await import("opencc-js/t2cn")
  const convert = Converter({ from: "t", to: "cn" })
  const all = await readPoems(folder, convert, signal)
  // A title that a poet used twice cannot be asked for; the better known poem has it.
  const asked = new Map<string, Poem>()
  for (const poem of all) {
    const key = `${poem.author}/${poem.title}`
    if (!asked.has(key)) asked.set(key, poem)
  }

  // Characters that hardly occur would each cost a place in the vocabulary and never be learned.
  const counts = new Map<string, number>()
  for (const poem of all) for (const letter of poem.text) counts.set(letter, (counts.get(letter) ?? 0) + 1)
  const common = (poem: Poem) =>
    [...poem.text, ...poem.title.replace("·", "")].every((letter) => (counts.get(letter) ?? 0) >= 8)

  // What is learned at school comes first, by rank; the best known of the others fill it up.
  const known = all.filter((poem) => asked.get(`${poem.author}/${poem.title}`)?.text === poem.text)
  const others = known.filter((poem) => !poem.school && common(poem))
  const texts = new Set<string>()
  const famous = [...known.filter((poem) => poem.school), ...others]
    .filter(({ text }) => !texts.has(text) && texts.add(text))
    .slice(0, sizes.famous)
  const chosen = new Set(famous)
  for (const poem of known) {
    if (chosen.size >= sizes.poems) break
    if (common(poem)) chosen.add(poem)
  }

  const lives = await readLives(folder, convert)
  const poets = new Set([...chosen].map((poem) => poem.author))
  const titles = new Map<string, number>()
  for (const poem of chosen) titles.set(poem.title, (titles.get(poem.title) ?? 0) + 1)
  const reading = [
    ...[...chosen].flatMap((poem, index) => [
      // Every third poem whole, of the rest what one may ask about them.
      ...(index % 3 === 0 ? [recite(poem)] : []),
      ...(titles.get(poem.title) === 1 ? [author(poem), ...facts(poem)] : []),
      ...nextLine(poem, index)
    ]),
    ...[...poets].flatMap((poet) => {
      const life = lives.get(poet)
      return life === undefined ? [] : [{ question: `介绍一下${poet}`, answer: life }]
    })
  ]
  return { reading, famous: famous.map(recite) }
}

/**
 * Rows as a jsonl file. Answers are in NFKC, as the character tokenizer reads and writes them: otherwise
 * every `，` that the model answers as `,` would count as a mistake.
 */
export const writeRows = (file: string, rows: ReadonlyArray<Row>) =>
  writeFile(
    file,
    rows
      .map(({ question, answer }) => `${JSON.stringify({ question, answer: answer.normalize("NFKC") })}\n`)
      .join("")
  )
