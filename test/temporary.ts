/** One folder for whatever the tests write under the system's temporary folder, removed when they are over. */
import { mkdtempSync, realpathSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

export default () => {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "chatlm-tests-")))
  process.env.TMPDIR = folder
  return () => rmSync(folder, { recursive: true, force: true })
}
