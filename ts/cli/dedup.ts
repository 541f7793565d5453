/** `chatlm dedup`: near-duplicates fall, order stays. */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

import { dedup, dedupDefaults } from "../dedup/dedup.ts"
import { makeError } from "../native/index.ts"
import * as Flags from "./core/flags.ts"
import { columns, Output, snakeCase } from "./core/output.ts"
import { maxMemory } from "./core/size.ts"
import { verb } from "./core/verb.ts"

export const command = verb(
  "dedup",
  "Drop each row that some earlier row resembles",
  {
    inputs: Flags.inputs,
    output: Flags.output,
    threshold: Flag.Finite("threshold").pipe(
      Flag.withDescription(`Jaccard similarity from which a row falls (default: ${dedupDefaults.threshold})`),
      Flag.optional
    ),
    ngram: Flags.integer("ngram", `Characters a shingle (default: ${dedupDefaults.ngram})`, 1).pipe(
      Flag.optional
    ),
    numPerm: Flags.integer("num-perm", `MinHash permutations (default: ${dedupDefaults.numPerm})`, 1).pipe(
      Flag.optional
    ),
    clusters: Flags.text("clusters", "Where the dropped rows and their clusters go", "PATH").pipe(
      Flag.optional
    ),
    report: Flags.text("report", "Where a report of the run goes, as JSON", "PATH").pipe(Flag.optional),
    against: Flag.String("against").pipe(
      Flag.withMetavar("PATH…"),
      Flag.withDescription("Also drop what resembles a row of these sets"),
      Flag.atLeast(0)
    ),
    maxMemory: maxMemory("half of what is free, at most 4GiB"),
    compat: Flags.boolean("compat", "Repeat the reference program, with its settings"),
    encoding: Flags.encoding,
    keepGoing: Flags.keepGoing,
    force: Flags.force
  },
  (flags) =>
    Effect.gen(function* () {
      const output = yield* Output
      const own = [flags.threshold, flags.ngram, flags.numPerm].some(Option.isSome)
      if (flags.compat && own) {
        return yield* Effect.fail(
          makeError(
            "USAGE",
            "--compat fixes its own settings",
            "leave out --threshold, --ngram and --num-perm, or --compat"
          )
        )
      }
      const report = yield* dedup({
        inputs: [...flags.inputs],
        output: flags.output,
        threshold: Option.getOrElse(flags.threshold, () => dedupDefaults.threshold),
        ngram: Option.getOrElse(flags.ngram, () => dedupDefaults.ngram),
        numPerm: Option.getOrElse(flags.numPerm, () => dedupDefaults.numPerm),
        against: [...flags.against],
        compat: flags.compat,
        keepGoing: flags.keepGoing,
        force: flags.force,
        ...Flags.given("clusters", flags.clusters),
        ...Flags.given("report", flags.report),
        ...Flags.given("maxMemory", flags.maxMemory),
        ...Flags.given("encoding", flags.encoding)
      })
      const value = snakeCase(report)
      yield* output.result(value, columns(Object.entries(value)))
    })
)
