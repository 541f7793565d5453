/** What OpenAPI's document says beyond the schemas: which objects are open, which headers and events come. */
import * as Schema from "effect/Schema"

import { ChatChunk, CompletionChunk, ErrorBody } from "./openai.ts"

interface Operation {
  readonly requestBody?: unknown
  readonly responses: Readonly<Record<string, object>>
}

interface Header {
  readonly description: string
  readonly schema: { readonly type: "string" | "integer" }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** Each alternative once: what may be left out and may be null is null twice. */
const once = (alternatives: ReadonlyArray<unknown>) => {
  const known = new Map(alternatives.map((one) => [JSON.stringify(one), one]))
  return [...known.values()]
}

/** A schema whose objects take fields that are not named, as OpenAI's clients expect. */
const opened = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(opened)
  if (!isObject(value)) return value
  const fields = Object.entries(value).filter(([key, one]) => key !== "additionalProperties" || one !== false)
  return Object.fromEntries(
    fields.map(([key, one]) => {
      const inner = opened(one)
      return [key, key === "anyOf" && Array.isArray(inner) ? once(inner) : inner]
    })
  )
}

/** The headers by status. */
const headers: Readonly<Record<string, Readonly<Record<string, Header>>>> = {
  200: {
    "X-Request-Id": { description: "The request's number in the log", schema: { type: "string" } },
    "X-Chatlm-Prompt-Cut": {
      description: "The prompt was longer than the model's room",
      schema: { type: "string" }
    }
  },
  401: { "WWW-Authenticate": { description: "How to bring a key", schema: { type: "string" } } },
  429: { "Retry-After": { description: "Seconds until there may be room", schema: { type: "integer" } } },
  503: { "Retry-After": { description: "Seconds until to ask again", schema: { type: "integer" } } }
}

/** What the events of a call hold. */
const chunks: Readonly<Record<string, Schema.Constraint>> = {
  "/v1/chat/completions": ChatChunk,
  "/v1/completions": CompletionChunk
}

const eventStream = "text/event-stream"

/** Before OpenAPI 3.2 the schema of a stream is that of an event. */
const withEvents = (response: object, chunk: Schema.Constraint | undefined): object => {
  const content = "content" in response && isObject(response.content) ? response.content : {}
  if (chunk === undefined || content[eventStream] === undefined) return response
  const json = Schema.toJsonSchemaDocument(Schema.Union([chunk, ErrorBody])).schema
  const data = {
    anyOf: [
      {
        type: "string",
        description: "A chunk, or why the answer broke off",
        contentMediaType: "application/json",
        contentSchema: json
      },
      { type: "string", description: "The end", enum: ["[DONE]"] }
    ]
  }
  const schema = { type: "object", description: "An event", properties: { data }, required: ["data"] }
  return { ...response, content: { ...content, [eventStream]: { schema } } }
}

const describeOperation = (path: string, operation: Operation): Operation => ({
  ...operation,
  ...(operation.requestBody === undefined ? {} : { requestBody: opened(operation.requestBody) }),
  responses: Object.fromEntries(
    Object.entries(operation.responses).map(([status, response]) => {
      const known = headers[status]
      const whole = known === undefined ? response : { ...response, headers: known }
      return [status, withEvents(whole, chunks[path])]
    })
  )
})

const isOperation = (value: unknown): value is Operation => isObject(value) && isObject(value.responses)

/** The document as it is served. */
export const describe = (document: Record<string, unknown>): Record<string, unknown> => {
  const paths = Object.entries(isObject(document.paths) ? document.paths : {}).map(([path, item]) => [
    path,
    Object.fromEntries(
      Object.entries(isObject(item) ? item : {}).map(([method, operation]) => [
        method,
        isOperation(operation) ? describeOperation(path, operation) : operation
      ])
    )
  ])
  return { ...document, paths: Object.fromEntries(paths) }
}
