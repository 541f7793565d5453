/** A table drawn with lines. */
import * as Effect from "effect/Effect"

export const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>) =>
  Effect.map(
    Effect.promise(() => import("cli-table3")),
    ({ default: Table }) => {
      // Plain: colours would be in the result, which may go to a file.
      const drawn = new Table({ head: [...head], style: { head: [], border: [] } })
      for (const row of rows) drawn.push([...row])
      return drawn.toString()
    }
  )
