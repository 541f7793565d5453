import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Rust writes into test/golden and builds into target; nothing of that is a test of this runner.
    exclude: ["**/node_modules/**", "**/target/**", "**/dist/**"],
    testTimeout: 60_000,
    hookTimeout: 60_000
  }
})
