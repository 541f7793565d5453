/** The reports of cleaning and dedup as one page. */
import * as Effect from "effect/Effect"

import { makeError } from "../../native/index.ts"
import { makeReport } from "../../report/report.ts"
import { listOf, makeArtifact } from "../artifact.ts"
import type { Artifact, Pairs, PreferencePairs, Report } from "../artifact.ts"
import { stage } from "../stage.ts"

type Reported = Report | Pairs | PreferencePairs

/** The options of `reportPage`. */
export interface ReportPageOptions {
  readonly name?: string
  /** What stages have made that report, such as `clean`, or reports as JSON; in the order of the page. */
  readonly from: Reported | ReadonlyArray<Reported>
}

/** The report that the stage of a result writes beside it. */
export const reportOf = (made: Artifact): Report => {
  if (made.kind === "report") return made as Report
  const { origin } = made
  if (origin.type === "stage" && origin.stage.outputs["report"]?.kind === "report") {
    return makeArtifact("report", { ...origin, output: "report" })
  }
  throw makeError(
    "CONFIG_INVALID",
    origin.type === "stage"
      ? `the stage ${origin.stage.name} writes no report`
      : `${origin.path} has no report`,
    "give what clean or dedup has made, or a report as JSON"
  )
}

/** One HTML page of what `clean` and `dedup` have reported; see `chatlm report`. */
export const reportPage = ({ name = "report", from }: ReportPageOptions): Report =>
  stage({
    name,
    version: 1,
    inputs: { from: listOf(from).map(reportOf) },
    outputs: { page: { kind: "report", path: "report.html" } },
    work: ({ inputs, outputs }) =>
      Effect.map(makeReport({ inputs: inputs.from, output: outputs.page, force: true }), ({ reports }) => ({
        rows: { reports }
      }))
  }).page
