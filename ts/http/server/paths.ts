/** Which paths the API has, and with which methods: for whoever asks for another. */
import { Api } from "../api/chat.ts"

const groups: ReadonlyArray<{
  readonly endpoints: Readonly<Record<string, { readonly method: string; readonly path: string }>>
}> = Object.values(Api.groups)

/** Where the schema and its page are. */
export const schemaPath = "/openapi.json"
export const docsPath = "/docs"

const calls = [
  ...groups.flatMap(({ endpoints }) => Object.values(endpoints)),
  ...[schemaPath, docsPath].map((path) => ({ method: "GET", path }))
]

const known = [...new Set(calls.map(({ path }) => path))].map((path) => {
  const methods = calls.filter((call) => call.path === path).map(({ method }) => method)
  return {
    pattern: new RegExp(`^${path.replaceAll(".", "\\.").replaceAll(/:\w+/g, "[^/]+")}$`),
    // What can be got can be asked for without its body.
    methods: methods.includes("GET") ? [...methods, "HEAD"] : methods
  }
})

/** The methods of what a URL (without its host) names; undefined where it names nothing of the API. */
export const methodsAt = (url: string): ReadonlyArray<string> | undefined => {
  const path = url.split(/[?#]/)[0] ?? ""
  return known.find(({ pattern }) => pattern.test(path))?.methods
}
