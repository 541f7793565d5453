/**
 * Which native addon `index.js` loads: under `mpirun` the one that talks over Open MPI where it has been built, else the
 * one for NVIDIA GPUs where its package is there and loads, else the processor's. `CHATLM_ADDON=cpu` or `cuda` forces one.
 *
 * The addon for GPUs links CUDA's libraries, so it loads only where a driver and CUDA are installed: it is
 * tried before `index.js` is asked, and where it fails, one line on standard error says why.
 */
import { existsSync, readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

import { makeError } from "./errors.ts"

/** The package that `npm run build:cuda` makes. */
const PACKAGE = "chatlm-cuda-linux-x64"
const FILE = "chatlm.linux-x64-cuda.node"
/** The variable with which napi's loader takes a given file. */
const OVERRIDE = "NAPI_RS_NATIVE_LIBRARY_PATH"

export interface AddonWorld {
  readonly env: Record<string, string | undefined>
  /** Loads a file, or throws. */
  readonly load: (path: string) => void
  readonly warn: (line: string) => void
}

/** What `npm run build:mpi` makes; only processes that `mpirun` starts want it, which tells them how many they are. */
const MPI = ["npm", "chatlm-mpi-linux-x64", "chatlm.linux-x64-mpi.node"]
const STARTED_BY_MPIRUN = "OMPI_COMM_WORLD_SIZE"

/** A file of this checkout. */
const made = (index: string, ...names: ReadonlyArray<string>): string | undefined => {
  const path = join(dirname(fileURLToPath(index)), ...names)
  return existsSync(path) ? path : undefined
}

/** The package's file, installed beside this package or made in this checkout. */
const find = (index: string): string | undefined => {
  try {
    return createRequire(index).resolve(PACKAGE)
  } catch {
    return made(index, "npm", PACKAGE, FILE)
  }
}

const versionBeside = (path: string): unknown =>
  JSON.parse(readFileSync(join(dirname(path), "package.json"), "utf8")).version

/** Throws unless the file is of the same version as `index.js` and loads. */
const check = (index: string, path: string, load: AddonWorld["load"]): void => {
  const [ours, theirs] = [versionBeside(fileURLToPath(index)), versionBeside(path)]
  if (ours !== theirs) throw new Error(`it is of version ${String(theirs)}, chatlm is of ${String(ours)}`)
  load(path)
}

const firstLine = (cause: unknown) =>
  cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : String(cause)

/** The addon over Open MPI; without it `mpirun`'s processes would each train alone, which the core refuses. */
const overMpi = (index: string, world: AddonWorld): string | undefined => {
  const path = world.env[STARTED_BY_MPIRUN] === undefined ? undefined : made(index, ...MPI)
  if (path === undefined) return undefined
  try {
    check(index, path, world.load)
    return path
  } catch (cause) {
    throw makeError(
      "ADDON_UNAVAILABLE",
      `the addon for Open MPI does not load: ${firstLine(cause)}`,
      "run npm run build:mpi again; it needs Debian's openmpi-bin or the like",
      { file: path },
      cause
    )
  }
}

/** The addon to load instead of the processor's, given the address of `index.js`. */
export const chooseAddon = (index: string, world: AddonWorld): string | undefined => {
  const wanted = world.env["CHATLM_ADDON"] || undefined
  if (wanted !== undefined && wanted !== "cpu" && wanted !== "cuda") {
    throw makeError(
      "USAGE",
      `CHATLM_ADDON is ${JSON.stringify(wanted)}`,
      "use cpu or cuda, or leave it out",
      {
        field: "CHATLM_ADDON"
      }
    )
  }
  // Whoever names a file themselves gets that one.
  if (wanted === "cpu" || (wanted === undefined && world.env[OVERRIDE])) return undefined
  const mpi = wanted === undefined ? overMpi(index, world) : undefined
  if (mpi !== undefined) return mpi
  const path = find(index)
  if (path === undefined) {
    if (wanted === undefined) return undefined
    throw makeError(
      "ADDON_UNAVAILABLE",
      `CHATLM_ADDON is cuda, and the package ${PACKAGE} is not there`,
      `install ${PACKAGE}, or run npm run build:cuda in a checkout`,
      { field: "CHATLM_ADDON" }
    )
  }
  try {
    check(index, path, world.load)
    return path
  } catch (cause) {
    if (wanted === "cuda") {
      throw makeError(
        "ADDON_UNAVAILABLE",
        `the addon for NVIDIA GPUs does not load: ${firstLine(cause)}`,
        "it needs an NVIDIA driver of the 580 series or newer and the libraries of CUDA 13",
        { file: path },
        cause
      )
    }
    world.warn(
      `warning: the addon for NVIDIA GPUs does not load, so the processor is used: ${firstLine(cause)}\n` +
        "help: install an NVIDIA driver of the 580 series or newer and CUDA 13, or set CHATLM_ADDON=cpu\n"
    )
    return undefined
  }
}

const world: AddonWorld = {
  env: process.env,
  load: (path) => void createRequire(import.meta.url)(path),
  warn: (line) => void process.stderr.write(line)
}

/** Runs `load`, in which `index.js` is loaded, so that it takes the chosen addon. */
export const withAddon = async <A>(index: string, load: () => Promise<A>): Promise<A> => {
  const forced = process.env["CHATLM_ADDON"]
  const chosen = chooseAddon(index, world)
  const before = process.env[OVERRIDE]
  if (chosen !== undefined) process.env[OVERRIDE] = chosen
  else if (forced === "cpu") delete process.env[OVERRIDE]
  try {
    return await load()
  } finally {
    // Only for this load: a program that is started from here chooses for itself.
    if (before === undefined) delete process.env[OVERRIDE]
    else process.env[OVERRIDE] = before
  }
}
