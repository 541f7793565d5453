// What the scripts share: where things are, running a command, hashing a set of files. No dependency.
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs"
import { homedir } from "node:os"
import { dirname, join, relative, resolve } from "node:path"
import { fileURLToPath } from "node:url"

export const root = resolve(dirname(fileURLToPath(import.meta.url)), "..")

/** Builds are kept outside the checkout, so that a fresh clone on the same machine builds nothing twice. */
export const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache")
process.env.CARGO_TARGET_DIR ||= join(cache, "chatlm", "target")
// napi build names its target, which cargo keeps apart from builds that name none: all name it.
const host = /^host: (.*)$/m.exec(spawnSync("rustc", ["-vV"], { encoding: "utf8" }).stdout ?? "")?.[1]
if (host) process.env.CARGO_BUILD_TARGET ||= host

/** The Node that the project brings along; the machine's own may be older. */
export const node = join(root, "node_modules", ".bin", "node")
export const bin = (name) => join(root, "node_modules", name)

/** Runs a command with the terminal's own streams; ends this process with its status where it fails. */
export const run = (command, args, options = {}) => {
  const label = options.label ?? [command, ...args].join(" ")
  const { status, signal, error } = spawnSync(command, args, { cwd: root, stdio: "inherit", ...options })
  if (status === 0) return
  console.error(`\nfailed: ${label}${error ? ` (${error.message})` : signal ? ` (${signal})` : ""}`)
  process.exit(status ?? 1)
}

/** Whether a command is there. */
export const has = (command) => spawnSync("sh", ["-c", `command -v ${command}`]).status === 0

/** Whether this user may install Debian's packages here. */
export const mayInstall = () => process.getuid?.() === 0 && has("apt-get")

/** Installs Debian's packages; ends this process where it may not. */
export const install = (packages) => {
  if (packages.length === 0) return
  console.error(`installing ${packages.join(" ")} (Debian's)`)
  if (!mayInstall()) {
    console.error(`error: they are missing\nhelp: sudo apt-get install ${packages.join(" ")}`)
    process.exit(3)
  }
  run("apt-get", ["update", "-qq"])
  run("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...packages], { stdio: ["ignore", "ignore", "inherit"] })
}

const files = (path) => {
  if (!existsSync(path)) return []
  if (!statSync(path).isDirectory()) return [path]
  return readdirSync(path)
    .sort()
    .flatMap((name) => (name === "target" || name === "node_modules" ? [] : files(join(path, name))))
}

/** One hash over names and contents of files and folders. */
export const hashOf = (...paths) => {
  const hash = createHash("sha256")
  for (const file of paths.flatMap((path) => files(join(root, path)))) {
    hash.update(`${relative(root, file)}\0`).update(readFileSync(file)).update("\0")
  }
  return hash.digest("hex")
}
