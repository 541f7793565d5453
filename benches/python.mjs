// What the benches share: the peers' Python and the model folders, both in the user's cache, made at the first call,
// and running a program that answers JSON. No dependency beyond Node's own.
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync } from "node:fs"
import { join } from "node:path"

import { cache, root } from "../scripts/lib.mjs"

export const stop = (message, help) => {
  console.error(`error: ${message}\nhelp: ${help}`)
  process.exit(1)
}

/** The last line of standard output as JSON, or why there is none. */
export const run = (command, args, env = {}) => {
  const { stdout, stderr, status, signal, error } = spawnSync(command, args, {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, ...env },
    maxBuffer: 1 << 28
  })
  if (status === 0) return JSON.parse(stdout.trim().split("\n").at(-1))
  const lines = (stderr ?? "").trim().split("\n")
  const why = lines.find((line) => line.startsWith("error[")) ?? lines.at(-1)
  throw new Error(why || error?.message || `ended by ${signal ?? status}`)
}

const modules = "torch, transformers, ctranslate2, datasets, rensa"
const imports = (python) => spawnSync(python, ["-c", `import ${modules}`], { encoding: "utf8" }).status === 0

/** A Python that imports what the peers want; made where there is none yet. `given` is one to use instead. */
export const findPython = (given) => {
  if (given !== undefined) {
    if (imports(given)) return given
    stop(`${given} does not import ${modules}`, "install them there, or leave out --python")
  }
  const folder = join(cache, "chatlm-dev", "venv")
  const python = join(folder, "bin", "python")
  if (existsSync(python) && imports(python)) return python
  console.error(`PyTorch and CTranslate2 come into ${folder}, once …`)
  const shown = { stdio: ["ignore", 2, 2] }
  const pip = (...args) =>
    spawnSync(python, ["-m", "pip", "install", "--upgrade", ...args], shown).status === 0
  if (!existsSync(python) && spawnSync("python3", ["-m", "venv", folder], shown).status !== 0) {
    stop("python3 -m venv fails", "install Python 3.10 or newer with its venv module")
  }
  // The builds for processors are a tenth the size; PyPI's, with CUDA, serve where their index cannot be reached.
  const torch = pip("torch", "--index-url", "https://download.pytorch.org/whl/cpu") || pip("torch")
  if (!torch || !pip("transformers", "pyarrow", "ctranslate2", "datasets", "rensa") || !imports(python)) {
    stop(`pip could not install ${modules}`, `see above; ${folder} may be deleted and made again`)
  }
  return python
}

/** Runs one of `peers/`, without a hub and on so many threads. */
export const peer = (python, script, args, threads) => {
  const env = { OMP_NUM_THREADS: threads, RAYON_NUM_THREADS: threads, HF_HUB_OFFLINE: "1" }
  return run(python, [join(root, "benches", "peers", script), ...args], env)
}

/** The flags of a model's shape, at the 0.2 B model's. */
export const shapes = { "d-model": "768", "d-ff": "3072", heads: "12", layers: "10" }
const standard = { ...shapes, vocab: "29298" }

/** A model folder of random weights in the cache, the 0.2 B model unless `shape` says otherwise; `~/.cache/…/models`
 *  may be deleted, and has to be after a change to make_model.py. */
export const randomModel = (python, threads, shape = standard) => {
  const names = Object.keys(standard)
  const usual = names.every((name) => shape[name] === standard[name])
  const models = join(cache, "chatlm-dev", "models")
  const name = usual ? "0.2b" : names.map((name) => shape[name]).join("-")
  const out = join(models, `chatlm-${name}-random`)
  if (existsSync(out)) return out
  console.error(`${out} is made, once …`)
  mkdirSync(models, { recursive: true })
  const args = names.flatMap((name) => [`--${name}`, shape[name]])
  peer(python, "make_model.py", ["--out", out, ...args], threads)
  return out
}
