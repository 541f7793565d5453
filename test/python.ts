/** The developers' Python, with what our neighbours in other languages are tested by. */
import { spawnSync } from "node:child_process"
import { homedir } from "node:os"
import { join } from "node:path"

export const python =
  process.env.CHATLM_PYTHON ?? join(homedir(), ".cache", "chatlm-dev", "venv", "bin", "python")

/** Whether it is there and imports a module; where not, says so in one line. */
export const pythonHas = (module: string): boolean => {
  const found = spawnSync(python, ["-c", `import ${module}`]).status === 0
  if (!found) process.stderr.write(`skipped: no Python with ${module} at ${python} (set CHATLM_PYTHON)\n`)
  return found
}
