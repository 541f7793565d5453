/** `chatlm fetch`: a model or a data set from a hub. */
import { join } from "node:path"

import * as Argument from "effect/cli/Argument"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"

import { fetchSnapshot } from "../fetch/fetch.ts"
import { parseReference } from "../fetch/reference.ts"
import { isLiteral } from "../fetch/wanted.ts"
import * as Flags from "./core/flags.ts"
import { number, Output, snakeCase } from "./core/output.ts"
import { verb } from "./core/verb.ts"

const megabytes = (bytes: number) => number(Math.round(bytes / 1e5) / 10)

export const command = verb(
  "fetch",
  "A model or a data set from Hugging Face's hub or ModelScope, gone on from where a transfer broke off",
  {
    from: Argument.String("reference").pipe(
      Argument.withDescription(
        "hf:[datasets/]owner/name[@revision][:path] or modelscope:…; a path may be a glob"
      )
    ),
    output: Flags.text("out", "A folder that gets a copy (left out, files stay in the cache)", "DIR").pipe(
      Flag.optional
    ),
    force: Flags.force
  },
  ({ from, output: folder, force }) =>
    Effect.gen(function* () {
      const output = yield* Output
      const report = yield* fetchSnapshot({ from, force, ...Flags.given("output", folder) })
      if (report.fromCache) {
        yield* output.warn(
          `warning: ${from} is as it was in the cache; the hub was not asked for a newer one`
        )
      }
      yield* output.note(
        `${report.files.length} ${report.files.length === 1 ? "file" : "files"}, ${megabytes(report.bytes)} MB, ` +
          `${megabytes(report.fetchedBytes)} MB of it fetched; commit ${report.commit}`
      )
      // What was named is what is told, so that it can be passed on: $(chatlm fetch hf:…:FILE).
      const { path } = parseReference(from)
      const place = isLiteral(path) ? join(report.folder, path) : report.folder
      yield* output.result({ ...snakeCase(report), path: place }, place)
    }),
  [
    {
      command: "chatlm fetch hf:charent/ChatLM-mini-Chinese --out model_save",
      description: "A model into a folder"
    },
    {
      command: "chatlm fetch 'hf:datasets/owner/name@main:data/*.parquet'",
      description: "Some files of a data set"
    }
  ]
)
