/** The reports of cleaning and dedup as one page. */

import * as Effect from "effect/Effect"

import { makeReport } from "../../report/report.ts"
import type { Report } from "../artifact.ts"
import { stage } from "../stage.ts"

/** The options of `reportPage`. */
export interface ReportPageOptions {
  readonly name?: string
  /** Reports as JSON, in the order of the page. */
  readonly from: Report | ReadonlyArray<Report>
}

/** One HTML page of what `clean` and `dedup` have reported; see `chatlm report`. */
export const reportPage = ({ name = "report", from }: ReportPageOptions): Report =>
  stage({
    name,
    version: 1,
    inputs: { from },
    outputs: { page: { kind: "report", path: "report.html" } },
    work: ({ inputs, outputs }) =>
      Effect.map(makeReport({ inputs: inputs.from, output: outputs.page, force: true }), ({ reports }) => ({
        rows: { reports }
      }))
  }).page
