/** The HTTP interface as a value: calls, shapes, statuses. Handlers are in `../server`. */
import * as Schema from "effect/Schema"
import * as HttpApi from "effect/http-api/HttpApi"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as HttpApiSchema from "effect/http-api/HttpApiSchema"
import * as HttpApiSecurity from "effect/http-api/HttpApiSecurity"
import * as OpenApi from "effect/http-api/OpenApi"

import { describe } from "./describe.ts"
import { OpenAiGroup } from "./openai.ts"

/** The text is empty. */
export class EmptyText extends Schema.Error<EmptyText>("chatlm/EmptyText")(
  { detail: Schema.String },
  { httpApiStatus: 406 }
) {}

/** The body is not JSON of the right shape. */
export class WrongShape extends Schema.Error<WrongShape>("chatlm/WrongShape")(
  { detail: Schema.String },
  { httpApiStatus: 422 }
) {}

/** The body is larger than a prompt can be. */
export class TooLarge extends Schema.Error<TooLarge>("chatlm/TooLarge")(
  { detail: Schema.String },
  { httpApiStatus: 413 }
) {}

/** No key, or another one. */
export class Unauthorized extends Schema.Error<Unauthorized>("chatlm/Unauthorized")(
  { detail: Schema.String },
  { httpApiStatus: 401 }
) {}

/** Too many requests: of this caller, or waiting. */
export class TooMany extends Schema.Error<TooMany>("chatlm/TooMany")(
  { detail: Schema.String },
  { httpApiStatus: 429 }
) {}

/** The model could not answer. */
export class Failed extends Schema.Error<Failed>("chatlm/Failed")(
  { detail: Schema.String },
  { httpApiStatus: 500 }
) {}

/** The server is about to end. */
export class Ending extends Schema.Error<Ending>("chatlm/Ending")(
  { detail: Schema.String },
  { httpApiStatus: 503 }
) {}

/** The model is not loaded yet, or the server is about to end. */
export class Unavailable extends Schema.Error<Unavailable>("chatlm/Unavailable")(
  { status: Schema.Literals(["loading", "draining"]) },
  { httpApiStatus: 503 }
) {}

/** Checks the bearer key where one is set. */
export class Authorization extends HttpApiMiddleware.Service<Authorization>()("chatlm/http/Authorization", {
  security: { bearer: HttpApiSecurity.bearer },
  error: Unauthorized
}) {}

/** Answers 422 to bodies that the schema refuses. */
export class ShapeErrors extends HttpApiMiddleware.Service<ShapeErrors>()("chatlm/http/ShapeErrors", {
  error: WrongShape
}) {}

/** Documented to have something in it; a text of spaces is not refused here but by 406. */
const Question = Schema.String.check(
  Schema.makeFilter(() => true, { toJsonSchema: () => ({ pattern: "\\S" }) })
)

export class ChatGroup extends HttpApiGroup.make("chat", { topLevel: true })
  .add(
    HttpApiEndpoint.post("chat", "/api/chat", {
      payload: Schema.Struct({ input_txt: Question }),
      success: Schema.Struct({ response: Schema.String }),
      error: [EmptyText, TooLarge, TooMany, Failed, Ending]
    }).annotate(OpenApi.Summary, "An answer to a text")
  )
  .middleware(ShapeErrors)
  .middleware(Authorization) {}

export class SystemGroup extends HttpApiGroup.make("system", { topLevel: true })
  .add(
    HttpApiEndpoint.get("health", "/health", {
      success: Schema.Struct({ status: Schema.Literal("ok") }),
      error: Unavailable
    }).annotate(OpenApi.Summary, "Whether the model answers")
  )
  .add(
    HttpApiEndpoint.get("metrics", "/metrics", {
      success: Schema.String.pipe(
        HttpApiSchema.asText({ contentType: "text/plain; version=0.0.4; charset=utf-8" })
      )
    }).annotate(OpenApi.Summary, "Numbers for Prometheus")
  ) {}

export class Api extends HttpApi.make("chatlm")
  .add(ChatGroup)
  .add(OpenAiGroup)
  .add(SystemGroup)
  .annotateMerge(OpenApi.annotations({ title: "chatlm", transform: describe })) {}
