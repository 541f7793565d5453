import { fileURLToPath } from "node:url"

import { defineConfig } from "vitest/config"

const source = (path: string) => fileURLToPath(new URL(path, import.meta.url))

export default defineConfig({
  // Examples import the package by its name; tests read its source, not what was built last.
  resolve: {
    alias: [
      { find: /^chatlm$/, replacement: source("./ts/index.ts") },
      { find: /^chatlm\/client$/, replacement: source("./ts/http/client/client.ts") },
      { find: /^chatlm\/pipeline$/, replacement: source("./ts/pipeline/index.ts") }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"],
    // Rust writes into test/golden and builds into target; nothing of that is a test of this runner.
    exclude: ["**/node_modules/**", "**/target/**", "**/dist/**"],
    globalSetup: ["test/temporary.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000
  }
})
