// Which addon is loaded, with packages that are files of a temporary folder.
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { afterEach, beforeEach, describe, expect, it } from "vitest"

import { chooseAddon } from "../../ts/native/addon.ts"

const root = resolve(import.meta.dirname, "../..")
const name = "chatlm-cuda-linux-x64"
const file = "chatlm.linux-x64-cuda.node"

let folder = ""
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "chatlm-addon-"))
  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "chatlm", version: "1.2.3" }))
  writeFileSync(join(folder, "index.js"), "")
})
afterEach(() => rmSync(folder, { recursive: true }))

/** Puts a package for GPUs at `at`. */
const install = (at: string, version = "1.2.3") => {
  const to = join(folder, at, name)
  mkdirSync(to, { recursive: true })
  writeFileSync(join(to, "package.json"), JSON.stringify({ name, version, main: file }))
  writeFileSync(join(to, file), "not a library")
  return join(to, file)
}

/** What is chosen, and what is said. */
const choose = (env: Record<string, string>, broken?: string) => {
  const [said, loaded]: [Array<string>, Array<string>] = [[], []]
  const chosen = chooseAddon(pathToFileURL(join(folder, "index.js")).href, {
    env,
    load: (path) => {
      loaded.push(path)
      if (broken !== undefined) throw new Error(`${broken}\nand more`)
    },
    warn: (line) => said.push(line)
  })
  return { chosen, said, loaded }
}

describe("the addon", () => {
  it("is the processor's, without a word, where no other is there", () => {
    expect(choose({})).toEqual({ chosen: undefined, said: [], loaded: [] })
  })

  it("is the one for GPUs where its package is installed, or made in the checkout", () => {
    const made = install("npm")
    expect(choose({})).toEqual({ chosen: made, said: [], loaded: [made] })
    const installed = install("node_modules")
    expect(choose({}).chosen).toBe(installed)
  })

  it("is the processor's with one warning where the other does not load", () => {
    install("node_modules")
    const { chosen, said } = choose({}, "libcuda.so.1: cannot open shared object file")
    expect(chosen).toBeUndefined()
    expect(said).toHaveLength(1)
    expect(said[0]).toContain("the processor is used: libcuda.so.1: cannot open shared object file\nhelp: ")
    expect(said[0]).not.toContain("and more")
  })

  it("is the one over Open MPI under mpirun, where it has been built", () => {
    const under = { OMPI_COMM_WORLD_SIZE: "2" }
    expect(choose(under).chosen).toBeUndefined()
    const [to, mpi] = [join(folder, "npm", "chatlm-mpi-linux-x64"), "chatlm.linux-x64-mpi.node"]
    mkdirSync(to, { recursive: true })
    writeFileSync(join(to, mpi), "not a library")
    writeFileSync(join(to, "package.json"), JSON.stringify({ version: "1.2.3" }))
    expect(choose(under)).toEqual({ chosen: join(to, mpi), said: [], loaded: [join(to, mpi)] })
    expect(choose({}).chosen).toBeUndefined()
    expect(choose({ ...under, CHATLM_ADDON: "cpu" }).chosen).toBeUndefined()
    expect(() => choose(under, "libmpi.so.40: cannot open")).toThrow(/for Open MPI does not load: libmpi/)
  })

  it("is not one of another version", () => {
    install("node_modules", "1.2.4")
    const { chosen, said, loaded } = choose({})
    expect([chosen, loaded]).toEqual([undefined, []])
    expect(said[0]).toContain("it is of version 1.2.4, chatlm is of 1.2.3")
  })

  it("is the one that CHATLM_ADDON names", () => {
    expect(() => choose({ CHATLM_ADDON: "cuda" })).toThrow(/chatlm-cuda-linux-x64 is not there/)
    install("node_modules")
    expect(choose({ CHATLM_ADDON: "cpu" })).toEqual({ chosen: undefined, said: [], loaded: [] })
    expect(() => choose({ CHATLM_ADDON: "cuda" }, "no libcuda")).toThrow(/does not load: no libcuda/)
    expect(() => choose({ CHATLM_ADDON: "metal" })).toThrow(/CHATLM_ADDON is "metal"/)
  })

  it("is left to whoever names a file for napi's loader", () => {
    install("node_modules")
    const env = { NAPI_RS_NATIVE_LIBRARY_PATH: "/some/file.node" }
    expect(choose(env)).toEqual({ chosen: undefined, said: [], loaded: [] })
  })
})

/** The real program in a process of its own, with the package of a file. */
const program = (make: (to: string) => void, env: Record<string, string> = {}) => {
  const made = join(folder, "node_modules", name)
  mkdirSync(made, { recursive: true })
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
  writeFileSync(join(made, "package.json"), JSON.stringify({ name, version, main: file }))
  make(join(made, file))
  // A checkout of its own, so that the package is found beside it and nowhere else.
  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "chatlm", version, type: "module" }))
  writeFileSync(
    join(folder, "index.js"),
    `export * from ${JSON.stringify(pathToFileURL(join(root, "index.js")).href)}`
  )
  const source = pathToFileURL(join(root, "ts/native/addon.ts")).href
  writeFileSync(
    join(folder, "main.ts"),
    `import { withAddon } from ${JSON.stringify(source)}
const url = new URL("index.js", import.meta.url).href
const border = await withAddon(url, () => import(url))
console.log(typeof border.doctor().version, process.env.NAPI_RS_NATIVE_LIBRARY_PATH ?? "unset")`
  )
  return spawnSync(process.execPath, [join(folder, "main.ts")], {
    encoding: "utf8",
    env: { PATH: process.env["PATH"] ?? "", ...env }
  })
}

describe("the program", () => {
  it("runs on the processor where the addon for GPUs is broken, and says so once", () => {
    const { status, stdout, stderr } = program((to) => writeFileSync(to, "not a library"))
    expect({ status, stdout }).toEqual({ status: 0, stdout: "string unset\n" })
    expect(stderr.match(/warning: the addon for NVIDIA GPUs does not load/g)).toHaveLength(1)
  })

  it("says nothing where the processor is asked for", () => {
    const { status, stderr } = program((to) => writeFileSync(to, "not a library"), { CHATLM_ADDON: "cpu" })
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" })
  })

  // Built by `npm run build:cuda` alone; where a driver is, it loads.
  const real = join(root, "npm", name, file)
  it.skipIf(!existsSync(real) || existsSync("/proc/driver/nvidia"))(
    "falls back from the real addon without a driver",
    () => {
      const { status, stdout, stderr } = program((to) => writeFileSync(to, readFileSync(real)))
      expect({ status, stdout }).toEqual({ status: 0, stdout: "string unset\n" })
      expect(stderr).toMatch(
        /processor is used: lib(cuda|cudart|nvrtc|curand|cublas|cublasLt)\.so\.\d+: cannot open/
      )
    }
  )
})
