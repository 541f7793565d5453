// The CUDA compiler as PyPI has it, in a cache folder: no GPU, no driver, no installed toolkit. And
// stub libraries to link against: the real ones are the user's, and are found when the addon loads.
import { execFileSync, spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { basename, dirname, join } from "node:path"

import { cache, root } from "../lib.mjs"
import { unpack } from "./zip.mjs"

/** CUDA 13.0: what runs needs a driver of the 580 series or newer. */
export const version = "13.0"
export const folder = join(cache, "chatlm", "cuda")
export const toolkit = join(folder, `toolkit-${version}`)
/** CUDA's runtime, which the package holds. */
export const runtime = "libcudart.so.13"

// Pinned by hash, so that what is built today is built next year.
const wheels = [
  ["56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03", "71/8b/a546c12881fffeba927d810598987df25d74b8b241788c7db8dfc93b0173/nvidia_cuda_nvcc-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"],
  ["7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548", "2e/24/d1558f3b68b1d26e706813b1d10aa1d785e4698c425af8db8edc3dced472/nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"],
  ["e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649", "ab/fb/0384bb2129bed6b1b39f8e44471c615ab5ab29b7e55817538a1d390d8f84/nvidia_cuda_cccl-13.0.85-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"],
  ["2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4", "05/69/a1ec4d9f0747d85964206feb47bf359f48a2d6af74c0add8abba6efe3dda/nvidia_cuda_crt-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"],
  ["c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0", "15/b0/ee41e6d1108d959b5097163e7190c2d0f7857dea75606ce358f0275891b4/nvidia_nvvm-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl"]
]

/** CUDA's libraries on the user's machine, and where cudarc binds to each. */
export const libraries = [
  { name: "cuda", soname: "libcuda.so.1", bindings: "driver" },
  { name: "nvrtc", soname: "libnvrtc.so.13", bindings: "nvrtc" },
  { name: "curand", soname: "libcurand.so.10", bindings: "curand" },
  { name: "cublas", soname: "libcublas.so.13", bindings: "cublas" },
  { name: "cublasLt", soname: "libcublasLt.so.13", bindings: "cublaslt" }
]

const sha256 = (data) => createHash("sha256").update(data).digest("hex")

// Stubs lie in a folder named by what they are made from, so that two checkouts never change each other's.
const cudarc = /name = "cudarc"\nversion = "([^"]+)"/.exec(readFileSync(join(root, "Cargo.lock"), "utf8"))?.[1]
const links = join(folder, `links-${sha256(JSON.stringify([version, libraries, cudarc, "layout 2"])).slice(0, 12)}`)
const stubs = join(links, "lib")
/** Where the stubs have the names that a program loads. */
export const loadable = join(links, "loadable")

export const fail = (code, what, help) => {
  console.error(`\nerror[${code}]: ${what}\nhelp: ${help}`)
  process.exit(3)
}

/** One wheel's bytes: from the cache folder, or from PyPI. A file that is not the pinned one never stays. */
const wheel = async ([hash, path]) => {
  const file = join(folder, "wheels", basename(path))
  if (existsSync(file)) {
    const data = readFileSync(file)
    if (sha256(data) === hash) return data
    rmSync(file)
  }
  const url = `https://files.pythonhosted.org/packages/${path}`
  console.error(`cuda: ${basename(path)} …`)
  const response = await fetch(url).catch((error) =>
    fail("DOWNLOAD", `${url}: ${error.cause?.message ?? error.message}`, "check the connection, then run this again: what is complete stays"))
  if (!response.ok) fail("DOWNLOAD", `${url} answers ${response.status}`, "check the connection, then run this again: what is complete stays")
  const data = Buffer.from(await response.arrayBuffer())
  if (sha256(data) !== hash) fail("DOWNLOAD", `${url} is not the file whose SHA-256 is pinned`, "something between here and PyPI changes it; try another network")
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(`${file}.part`, data)
  renameSync(`${file}.part`, file)
  return data
}

/**
 * nvcc that keeps the objects it has made of other people's sources (candle's kernels: a quarter of an hour on
 * two cores), so that a build that was stopped, or a new target folder, goes on from there. A package's folder
 * names its version, so its path and the arguments say what is in an object.
 */
const KEEPING = `#!/bin/sh
real=$(dirname "$0")/nvcc
kept=$(dirname "$0")/../../objects
case " $* " in *" -c "*) ;; *) exec "$real" "$@" ;; esac
key=$PWD out= before=
for word in "$@"; do
  if [ "$before" = -o ]; then out=$word; elif [ "$word" != -o ]; then key="$key $word"; fi
  before=$word
done
object=$kept/$(printf %s "$key" | sha256sum | cut -c1-40).o
if [ ! -f "$object" ]; then
  "$real" "$@" || exit $?
  mkdir -p "$kept" && cp "$out" "$object.$$" && mv "$object.$$" "$object"
else
  cp "$object" "$out"
fi
`

/** Every function that cudarc may bind to in a library: the stub has them all, so that the linker keeps the library. */
const functions = (source, bindings) => {
  const found = new Set()
  const sys = join(source, "src", bindings, "sys")
  for (const name of readdirSync(sys)) {
    if (!name.endsWith(".rs")) continue
    for (const [, symbol] of readFileSync(join(sys, name), "utf8").matchAll(/\bfn ((?:cu|nvrtc)\w+)\s*\(/g)) found.add(symbol)
  }
  return [...found].toSorted()
}

const makeStubs = (to) => {
  const metadata = JSON.parse(execFileSync("cargo", ["metadata", "--format-version=1", "--locked", "--all-features", "--filter-platform=x86_64-unknown-linux-gnu"], {
    cwd: root, encoding: "utf8", maxBuffer: 256 << 20, stdio: ["ignore", "pipe", "inherit"]
  }))
  const found = metadata.packages.find((one) => one.name === "cudarc")
  if (!found) fail("TOOLKIT", "cudarc is not among this workspace's packages", "run cargo fetch, then this again")
  mkdirSync(join(to, "lib"), { recursive: true })
  mkdirSync(join(to, "loadable"))
  for (const { name, soname, bindings } of libraries) {
    const symbols = functions(dirname(found.manifest_path), bindings)
    if (symbols.length === 0) fail("TOOLKIT", `no function of ${soname} is found in cudarc ${found.version}`, "its source moved: look at functions() in scripts/cuda/toolkit.mjs")
    const source = join(to, "lib", `${name}.c`)
    writeFileSync(source, `${symbols.map((symbol) => `void ${symbol}(void) {}`).join("\n")}\n`)
    const { status } = spawnSync("cc", ["-shared", "-nostdlib", "-fPIC", `-Wl,-soname,${soname}`, "-o", join(to, "lib", `lib${name}.so`), source], { stdio: "inherit" })
    if (status !== 0) fail("TOOLKIT", `cc makes no stub of ${soname}`, "install a C compiler (Debian: build-essential)")
    symlinkSync(`../lib/lib${name}.so`, join(to, "loadable", soname))
  }
  // The runtime that candle's kernels call travels with the addon. Not the static one: its 4096 bytes of
  // thread-local memory, aligned to as much, do not fit into what a program keeps for libraries that it
  // loads late, and the addon (whose allocator wants that memory) would load nowhere.
  symlinkSync(join(toolkit, "lib", runtime), join(to, "lib", "libcudart.so"))
}

/** The functions of a stub. */
export const functionsOf = (name) =>
  [...readFileSync(join(stubs, `${name}.c`), "utf8").matchAll(/^void (\w+)\(/gm)].map(([, symbol]) => symbol)

/** Puts a finished folder in its place; another process may have been faster. */
const settle = (made, place) => {
  rmSync(place, { recursive: true, force: true })
  renameSync(made, place)
}

/** Brings the compiler and the stubs to where they are; what is complete is left alone. */
export const prepare = async () => {
  if (process.platform !== "linux" || process.arch !== "x64")
    fail("PLATFORM", `the CUDA addon is built on Linux x64, this is ${process.platform} ${process.arch}`, "build it there")
  const started = Date.now()
  const [hashes, unpacked] = [wheels.map(([hash]) => hash).join("\n"), join(toolkit, "unpacked")]
  if (!existsSync(unpacked) || readFileSync(unpacked, "utf8") !== hashes) {
    const to = `${toolkit}.${process.pid}`
    for (const one of wheels) {
      const count = unpack(await wheel(one), "nvidia/cu13/", to)
      if (count === 0) fail("TOOLKIT", `${basename(one[1])} holds nothing below nvidia/cu13`, "its layout changed: look at scripts/cuda/toolkit.mjs")
    }
    writeFileSync(join(to, "unpacked"), hashes)
    settle(to, toolkit)
    console.error(`cuda: compiler unpacked in ${((Date.now() - started) / 1000).toFixed(0)} s at ${toolkit}`)
  }
  const keeping = join(toolkit, "bin", "nvcc-keeping")
  if (!existsSync(keeping) || readFileSync(keeping, "utf8") !== KEEPING) {
    writeFileSync(`${keeping}.${process.pid}`, KEEPING, { mode: 0o755 })
    renameSync(`${keeping}.${process.pid}`, keeping)
  }
  if (!existsSync(links)) {
    makeStubs(`${links}.${process.pid}`)
    settle(`${links}.${process.pid}`, links)
  }
}

/** What cargo, candle's build scripts and ours need to find the compiler. */
export const environment = () => ({
  ...process.env,
  NVCC: join(toolkit, "bin", "nvcc-keeping"),
  CHATLM_NVCC: join(toolkit, "bin", "nvcc"),
  // cudarc looks for libraries there, and for nothing else.
  CUDA_HOME: links,
  CUDA_PATH: links,
  PATH: `${join(toolkit, "bin")}:${process.env.PATH}`,
  // The lowest: candle's kernels are PTX, which the driver compiles for every newer GPU as it loads them.
  CUDA_COMPUTE_CAP: "80",
  CUDARC_CUDA_VERSION: "13000",
  CARGO_TARGET_DIR: process.env.CHATLM_CUDA_TARGET || join(folder, "target")
})
