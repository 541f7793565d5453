// The addon for NVIDIA GPUs, as an npm package: `npm run build:cuda [-- --json]`. No GPU is needed for it,
// and nothing else in this project needs it. Running it again goes on where it stopped.
// `node scripts/cuda.mjs --run COMMAND …` runs a command, cargo clippy say, with the compiler's environment.
import { execFileSync, spawnSync } from "node:child_process"
import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"

import { root, run } from "./lib.mjs"
import { imports, kernels } from "./cuda/addon.mjs"
import { environment, fail, functionsOf, libraries, loadable, prepare, runtime, toolkit, version } from "./cuda/toolkit.mjs"

const NAME = "chatlm-cuda-linux-x64"
const ADDON = "chatlm.linux-x64-cuda.node"
const CAPABILITIES = [80, 86, 89, 90]
const folder = join(root, "npm", NAME)

const [first, ...rest] = process.argv.slice(2)
const started = Date.now()
const since = (from) => Math.round((Date.now() - from) / 100) / 10

await prepare()
const toolkitSeconds = since(started)
if (first === "--run") {
  if (rest.length === 0) fail("USAGE", "--run wants a command", "node scripts/cuda.mjs --run cargo clippy …")
  run(rest[0], rest.slice(1), { env: environment() })
  process.exit(0)
}
if (first !== undefined && first !== "--json") fail("USAGE", `${first} is not known here`, "--json, or --run COMMAND …")

const building = Date.now()
const env = environment()
const built = spawnSync("cargo", ["build", "--release", "-p", "chatlm-napi", "--features", "cuda"], {
  // Standard output is the summary's alone.
  cwd: root, env, stdio: ["ignore", 2, 2]
})
if (built.status !== 0) fail("BUILD", "cargo does not build the addon with the feature cuda", "what it says stands above; run this again after a repair: what is built stays")
const buildSeconds = since(building)

const library = join(env.CARGO_TARGET_DIR, process.env.CARGO_BUILD_TARGET ?? "", "release", "libchatlm_napi.so")
const file = readFileSync(library)

// What the addon holds, before anybody gets it.
const { needed, undefinedNames } = imports(file)
// Every function that is left to CUDA's libraries is in one that the addon loads. Whose functions nothing
// calls the linker leaves out, which is one library less for the user.
const owners = new Map(libraries.flatMap(({ name, soname }) => functionsOf(name).map((symbol) => [symbol, soname])))
const ownerOf = (name) => owners.get(name) ?? (/^(__)?cuda[A-Z]/.test(name) ? runtime : undefined)
const cudaFunctions = undefinedNames.filter((name) => ownerOf(name) || /^(cu[A-Z]|cublas|curand|nvrtc)/.test(name))
const homeless = cudaFunctions.filter((name) => !needed.includes(ownerOf(name)))
if (homeless.length > 0 || cudaFunctions.length === 0) fail("VERIFY", `the addon calls ${homeless.slice(0, 5).join(", ") || "no function of CUDA"} and loads only ${needed.join(", ")}`, "the linker left out a stub: look at makeStubs in scripts/cuda/toolkit.mjs")
const wanted = readFileSync(join(root, "crates/chatlm-cuda/kernels/names.txt"), "utf8").trim().split("\n")
const found = kernels(file)
const incomplete = wanted.filter((name) => CAPABILITIES.some((capability) => !found.get(name)?.has(capability)))
if (incomplete.length > 0) fail("VERIFY", `${incomplete.length} kernels are not in the addon for all of ${CAPABILITIES.join(", ")}: ${incomplete.slice(0, 5).join(", ")}`, "build.rs of chatlm-cuda embeds them; is every file in its list?")

const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })
copyFileSync(library, join(folder, `${ADDON}.part`))
renameSync(join(folder, `${ADDON}.part`), join(folder, ADDON))
mkdirSync(join(folder, "lib"))
copyFileSync(join(toolkit, "lib", runtime), join(folder, "lib", runtime))
// It loads and answers where CUDA's other libraries are there, be they stubs.
const answer = spawnSync(process.execPath, ["-e", "console.log(require(process.argv[1]).doctor().version)", join(folder, ADDON)], {
  encoding: "utf8", env: { ...process.env, LD_LIBRARY_PATH: loadable }
})
if (answer.status !== 0 || answer.stdout.trim() !== manifest.version) fail("VERIFY", `the addon does not load beside stubs of CUDA's libraries: ${(answer.stderr || answer.stdout).trim()}`, "what the loader says stands above")
copyFileSync(join(root, "LICENSE"), join(folder, "LICENSE"))
writeFileSync(join(folder, "package.json"), `${JSON.stringify({
  name: NAME,
  version: manifest.version,
  description: "chatlm's native addon for NVIDIA GPUs of compute capability 8.0 and newer",
  license: manifest.license,
  os: ["linux"],
  cpu: ["x64"],
  libc: ["glibc"],
  main: ADDON,
  files: [ADDON, "lib"]
}, null, 2)}\n`)
writeFileSync(join(folder, "README.md"), `# ${NAME}

The native addon of chatlm ${manifest.version} for NVIDIA GPUs of compute capability 8.0, 8.6, 8.9, 9.0 and newer. Install it
beside chatlm, which then uses it; where it does not load, chatlm says why once and runs on the processor.

It needs a driver of the 580 series or newer and the libraries of CUDA ${version.split(".")[0]}: ${libraries.map(({ soname }) => soname).filter((soname) => needed.includes(soname)).join(", ")}. They are
looked for where the system looks, in \`lib\` beside the addon and in /usr/local/cuda/lib64. ${runtime} comes along,
under NVIDIA's licence for CUDA (https://docs.nvidia.com/cuda/eula).
`)
const packed = JSON.parse(execFileSync("npm", ["pack", "--json", "--pack-destination", ".."], {
  cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"]
}))
// npm 12 answers an object by name, older ones a list.
const { filename } = Array.isArray(packed) ? packed[0] : Object.values(packed)[0]
const archive = join(root, "npm", filename)

const summary = {
  seconds: since(started),
  toolkitSeconds,
  buildSeconds,
  addon: { path: join(folder, ADDON), bytes: file.length },
  package: { path: archive, bytes: statSync(archive).size },
  kernels: wanted.length,
  capabilities: CAPABILITIES,
  libraries: needed,
  // Resolved on the user's machine alone.
  cudaFunctions: cudaFunctions.length
}
if (first === "--json") console.log(JSON.stringify(summary, null, 2))
else {
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`
  console.log(`addon    ${summary.addon.path} (${megabytes(summary.addon.bytes)})`)
  console.log(`package  ${archive} (${megabytes(summary.package.bytes)})`)
  console.log(`kernels  ${wanted.length} of our own, each for ${CAPABILITIES.map((c) => (c / 10).toFixed(1)).join(", ")} and as PTX`)
  console.log(`loads    ${needed.join(", ")}`)
  console.log(`took     ${summary.seconds} s (compiler ${toolkitSeconds} s, build ${buildSeconds} s)`)
}
