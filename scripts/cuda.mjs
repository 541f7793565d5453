// The addon for NVIDIA GPUs, as an npm package: `npm run build:cuda [-- --json]`. No GPU is needed, and
// nothing else in this project needs it. `node scripts/cuda.mjs --run COMMAND …` runs a command (cargo
// clippy, say) with the compiler's environment.
import { run } from "./lib.mjs"
import { environment, prepare } from "./cuda/toolkit.mjs"

const [first, ...rest] = process.argv.slice(2)
await prepare()
if (first === "--run") {
  run(rest[0], rest.slice(1), { env: environment() })
  process.exit(0)
}
