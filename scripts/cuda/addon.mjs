// What an addon holds, read from its file: which libraries it loads, which of their functions it calls,
// and which kernels for which GPUs are embedded in it. Node alone; no nm, no cuobjdump.

const EM_CUDA = 190

/** The sections of an ELF file that begins at `at`, by name. */
const sections = (file, at) => {
  const table = at + Number(file.readBigUInt64LE(at + 40))
  const [size, count, names] = [58, 60, 62].map((field) => file.readUInt16LE(at + field))
  const header = (index) => {
    const from = table + index * size
    return {
      name: file.readUInt32LE(from),
      type: file.readUInt32LE(from + 4),
      offset: at + Number(file.readBigUInt64LE(from + 24)),
      bytes: Number(file.readBigUInt64LE(from + 32)),
      link: file.readUInt32LE(from + 40)
    }
  }
  const all = Array.from({ length: count }, (_, index) => header(index))
  const text = (section, from) => file.toString("latin1", section.offset + from, file.indexOf(0, section.offset + from))
  return { all, text, named: all.map((one) => ({ ...one, name: text(all[names], one.name) })) }
}

/** The sonames that a shared library loads, and the names it expects others to define. */
export const imports = (file) => {
  const { all, text, named } = sections(file, 0)
  const dynamic = named.find(({ name }) => name === ".dynamic")
  const symbols = named.find(({ name }) => name === ".dynsym")
  const needed = []
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.bytes; at += 16) {
    if (file.readBigUInt64LE(at) === 1n) needed.push(text(all[dynamic.link], Number(file.readBigUInt64LE(at + 8))))
  }
  const undefinedNames = []
  for (let at = symbols.offset; at < symbols.offset + symbols.bytes; at += 24) {
    if (file.readUInt16LE(at + 6) === 0) undefinedNames.push(text(all[symbols.link], file.readUInt32LE(at)))
  }
  return { needed, undefinedNames: undefinedNames.filter((name) => name !== "") }
}

/** The kernels of every embedded GPU program: a map from a kernel to the capabilities it is compiled for, such as 80. */
export const kernels = (file) => {
  const found = new Map()
  for (let at = file.indexOf("\x7fELF", 1, "latin1"); at >= 0; at = file.indexOf("\x7fELF", at + 1, "latin1")) {
    if (at + 64 > file.length || file.readUInt16LE(at + 18) !== EM_CUDA) continue
    const capability = (file.readUInt32LE(at + 48) >>> 8) & 0xff
    for (const { name } of sections(file, at).named) {
      if (!name.startsWith(".text.")) continue
      const kernel = name.slice(6)
      found.set(kernel, (found.get(kernel) ?? new Set()).add(capability))
    }
  }
  return found
}
