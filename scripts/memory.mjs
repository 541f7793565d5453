// The kernels' tests under the address sanitizer, and under valgrind: `npm run check:memory`.
// The sanitizer needs a nightly switch of the stable compiler (RUSTC_BOOTSTRAP) and builds into a folder of its own.
// valgrind knows no AVX-512: there the paths up to AVX2 run.
import { join } from "node:path"

import { cache, run } from "./lib.mjs"

const target = process.env.CARGO_BUILD_TARGET
const tests = (label, folder, env) =>
  run("cargo", ["test", "--release", "-p", "chatlm-kernels", "--target", target], {
    label,
    env: { ...process.env, CARGO_TARGET_DIR: join(cache, "chatlm", folder), ...env }
  })

const only = process.argv[2]
if (only === undefined || only === "address")
  tests("address sanitizer", "target-address", {
    RUSTC_BOOTSTRAP: "1",
    RUSTFLAGS: "-Zsanitizer=address",
    // The global pools live until the end.
    ASAN_OPTIONS: "detect_leaks=0",
    PROPTEST_CASES: "16"
  })
if (only === undefined || only === "valgrind")
  tests("valgrind", "target-valgrind", {
    [`CARGO_TARGET_${target.toUpperCase().replaceAll("-", "_")}_RUNNER`]:
      "valgrind --quiet --error-exitcode=9 --fair-sched=yes",
    PROPTEST_CASES: "2"
  })
