// The rows of peers.mjs on generation: `chatlm bench generate` and peers/generate.py on one model of random weights.
import { existsSync, rmSync } from "node:fs"

import { randomModel } from "./python.mjs"

const once = (make) => {
  let made
  return () => (made ??= make())
}

/**
 * Measurements (two halves that answer JSON) and the table's rows of generation. `chatlm` and `peers` run a half,
 * `flags` are those of peers.mjs. Model folders are made when the first half asks for them, before its clock runs.
 */
export const generation = ({ flags, python, chatlm, peers, units: { bytes, rate, seconds } }) => {
  const random = once(() => randomModel(python(), flags.threads, flags))

  /** Our int8 folder, exported anew by every call of the bench: its form is ours and may have moved. */
  const exported = once(() => {
    const out = `${random()}-int8`
    rmSync(out, { recursive: true, force: true })
    chatlm("export", "--int8", "--model", random(), "--out", out)
    return out
  })

  /** CTranslate2's folder; converting takes torch, so it is a process of its own and not the one measured. */
  const converted = (dtype) => {
    const out = `${random()}-ct2-${dtype}`
    const args = ["--engine", "ctranslate2", "--model", random(), "--convert", out, "--dtype", dtype]
    if (!existsSync(out)) peers("generate.py", ...args)
    return out
  }

  const generate = ({ dtype, batch = "1", engine = "ctranslate2", beam = false }) => {
    const search = beam ? ["--search", "beam", "--beams", "5"] : ["--search", "greedy"]
    const sizes = ["--batch", batch, "--source", "64", "--tokens", flags.tokens]
    const args = [...sizes, ...search, "--dtype", dtype]
    const ours = () => (dtype === "int8" ? exported() : random())
    const theirs = () => (engine === "ctranslate2" ? converted(dtype) : random())
    return {
      ours: () => chatlm("bench", "generate", "--model", ours(), ...args),
      peers: () => peers("generate.py", "--engine", engine, "--model", theirs(), ...args)
    }
  }

  const measurements = {
    "generate-f32-1": generate({ dtype: "f32" }),
    "generate-f32-8": generate({ dtype: "f32", batch: "8" }),
    "generate-int8-1": generate({ dtype: "int8" }),
    "generate-int8-8": generate({ dtype: "int8", batch: "8" }),
    "generate-f32-beam": generate({ dtype: "f32", beam: true }),
    "generate-int8-beam": generate({ dtype: "int8", beam: true }),
    "generate-f32-1-transformers": generate({ dtype: "f32", engine: "transformers" }),
    "generate-f32-8-transformers": generate({ dtype: "f32", batch: "8", engine: "transformers" }),
    // CTranslate2 has no bf16 on processors.
    "generate-bf16-1": generate({ dtype: "bf16", engine: "transformers" })
  }

  const tokens = (name, what, peer = "CTranslate2") => ({
    name,
    title: `${what}: tokens, against ${peer}`,
    of: name,
    field: "tokens_per_second",
    unit: rate
  })
  const rows = [
    tokens("generate-f32-1", "greedy, f32, batch 1"),
    tokens("generate-f32-8", "greedy, f32, batch 8"),
    tokens("generate-int8-1", "greedy, int8, batch 1"),
    tokens("generate-int8-8", "greedy, int8, batch 8"),
    tokens("generate-f32-beam", "5 beams, f32, batch 1"),
    tokens("generate-int8-beam", "5 beams, int8, batch 1"),
    {
      name: "generate-int8-memory",
      title: "peak memory, greedy, int8, batch 1, against CTranslate2",
      of: "generate-int8-1",
      field: "peak_rss_bytes",
      unit: bytes
    },
    {
      name: "first-token-int8",
      title: "first token, int8, batch 1, against CTranslate2",
      of: "generate-int8-1",
      field: "first_token_seconds",
      unit: seconds
    },
    tokens("generate-f32-1-transformers", "greedy, f32, batch 1", "transformers"),
    tokens("generate-f32-8-transformers", "greedy, f32, batch 8", "transformers"),
    tokens("generate-bf16-1", "greedy, bf16, batch 1", "transformers")
  ]
  return { measurements, rows }
}
