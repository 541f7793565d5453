import * as Effect from "effect/Effect"
import { serve } from "/tmp/w/page/ts/http/index.ts"
import { memoryBorder, Native } from "/tmp/w/page/ts/native/index.ts"
const memory = memoryBorder()
const keys = process.argv.slice(3)
Effect.runFork(serve({ generator: { model: "ChatLM-mini", dtype: "f32" }, settings: {}, host: "127.0.0.1", port: Number(process.argv[2] ?? 8900), apiKeys: keys, onReady: (a) => Effect.sync(() => console.log(a)) }).pipe(Effect.provide(Native.testLayer(memory))))
