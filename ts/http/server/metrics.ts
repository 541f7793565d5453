/** The server's numbers for Prometheus: the core's own, and the times of requests. */
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"

import type { RequestEnd, ServingStats } from "../../generate/generate.ts"

const seconds = Metric.boundariesFromIterable([0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120])

const histogram = (name: string, description: string) =>
  Metric.histogram(`chatlm_${name}`, { description, boundaries: seconds })

const waited = histogram("queue_seconds", "From coming to the first step")
const firstToken = histogram("first_token_seconds", "From coming to the first token")
const perToken = histogram("token_seconds", "Between two tokens of an answer, on average")
const whole = histogram("request_seconds", "From coming to the end")

/** Counts an answered request in. */
export const observe = (end: RequestEnd): Effect.Effect<void> => {
  const longest = Math.max(0, ...end.answers.map(({ tokens }) => tokens.length))
  const first = end.firstToken
  return Effect.all(
    [
      Metric.update(waited, end.waited),
      Metric.update(whole, end.seconds),
      ...(first === undefined || first === null ? [] : [Metric.update(firstToken, first)]),
      ...(first === undefined || first === null || longest < 2
        ? []
        : [Metric.update(perToken, (end.seconds - first) / (longest - 1))])
    ],
    { discard: true }
  )
}

const responses = (status: number) =>
  Metric.counter("chatlm_http_responses_total", {
    description: "Responses by status",
    incremental: true,
    attributes: { status: String(status) }
  })

/** Counts a response. */
export const responded = (status: number): Effect.Effect<void> => Metric.update(responses(status), 1)

const gauges = {
  waiting: ["requests_waiting", "Requests that wait for their first step"],
  running: ["requests_running", "Requests at work"],
  rows: ["batch_rows", "Rows of the last step"],
  cacheBytes: ["cache_bytes", "Bytes that running requests may come to need for keys and values"]
} as const

const counters = {
  answered: ["requests_answered_total", "Requests answered"],
  cancelled: ["requests_cancelled_total", "Requests given up"],
  failed: ["requests_failed_total", "Requests that failed"],
  refused: ["requests_refused_total", "Requests refused since too many waited"],
  promptTokens: ["prompt_tokens_total", "Tokens of prompts"],
  tokens: ["generated_tokens_total", "Tokens of answers"],
  steps: ["steps_total", "Steps of the decoder"],
  rowsStepped: ["step_rows_total", "Rows of all steps together"]
} as const

const own = (stats: ServingStats): string =>
  (
    [
      ["gauge", gauges],
      ["counter", counters]
    ] as const
  )
    .flatMap(([type, table]) =>
      Object.entries(table).flatMap(([key, [name, help]]) => [
        `# HELP chatlm_${name} ${help}`,
        `# TYPE chatlm_${name} ${type}`,
        `chatlm_${name} ${stats[key as keyof ServingStats]}`
      ])
    )
    .join("\n")

/** All of it in Prometheus' text form. */
export const exposition = (stats: ServingStats | undefined): Effect.Effect<string> =>
  Effect.map(PrometheusMetrics.format(), (text) => `${stats === undefined ? "" : `${own(stats)}\n`}${text}`)
