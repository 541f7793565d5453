/** The lines of a readable stream. */
import { createInterface } from "node:readline"

import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

import { bug } from "../../native/index.ts"
import type { ChatlmError } from "../../native/index.ts"

export const lines = (input: NodeJS.ReadableStream): Stream.Stream<string, ChatlmError> =>
  Stream.unwrap(
    Effect.acquireRelease(
      Effect.sync(() => createInterface({ input, crlfDelay: Infinity })),
      (reader) => Effect.sync(() => reader.close())
    ).pipe(Effect.map((reader) => Stream.fromAsyncIterable(reader, bug)))
  )
