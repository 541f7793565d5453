/**
 * The interface against its own document: `npm run check:api`. Schemathesis makes requests of `/openapi.json`, right
 * ones and wrong ones, and checks each response against it; all its checks, over every call of the real program.
 *
 *     npm run check:api -- [--examples 50] [--seed 1] [--python PATH]
 *
 * Twice: with the document as it is, and with one that knows the name of the model, since a name that is made up ends
 * every call at 404.
 */
import { spawnSync } from "node:child_process"
import { existsSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"

import { makeModel, startServer } from "./support.ts"

const requirement = "schemathesis==4.32.5"
const { values } = parseArgs({
  options: {
    examples: { type: "string", default: "50" },
    seed: { type: "string", default: "1" },
    python: { type: "string" }
  }
})

const say = (text: string) => process.stderr.write(`${text}\n`)
const shown = { stdio: ["ignore", 2, 2] as Array<number | "ignore"> }
const run = (command: string, args: ReadonlyArray<string>, cwd = ".") =>
  spawnSync(command, args, { ...shown, cwd }).status ?? 1
const has = (python: string) =>
  existsSync(python) && spawnSync(python, ["-c", "import schemathesis"]).status === 0

/** A Python with schemathesis: the given one, the developers', or one of its own, made at the first call. */
const findPython = (): string => {
  const folder = join(homedir(), ".cache", "chatlm-dev")
  const [developers, own] = ["venv", "schemathesis"].map((name) => join(folder, name, "bin", "python"))
  const known = [values.python ?? process.env.CHATLM_PYTHON, developers, own]
  const found = known.find((python) => python !== undefined && has(python))
  if (found !== undefined) return found
  const venv = join(folder, "schemathesis")
  say(`schemathesis comes into ${venv}, once …`)
  const python = join(venv, "bin", "python")
  if (
    run("python3", ["-m", "venv", venv]) !== 0 ||
    run(python, ["-m", "pip", "install", "--quiet", requirement])
  ) {
    say(`error: pip could not install ${requirement}\nhelp: see above, or name a Python with it by --python`)
    process.exit(3)
  }
  return python
}

/** The document with the one model that there is. */
const withModel = (document: string): string => {
  const parsed = JSON.parse(document) as {
    paths: Record<string, Record<string, { requestBody?: unknown }>>
  }
  for (const path of ["/v1/chat/completions", "/v1/completions"]) {
    const body = parsed.paths[path]?.post?.requestBody as {
      content: { "application/json": { schema: { properties: { model: { enum?: ReadonlyArray<string> } } } } }
    }
    body.content["application/json"].schema.properties.model.enum = ["m"]
  }
  return JSON.stringify(parsed)
}

const python = findPython()
// One that ends by itself, for there are requests without any other end.
const model = await makeModel({ maxSteps: 200, learningRate: 0.003, warmupSteps: 0 })
// Whatever is asked for is taken in, so that nothing right is refused.
const server = await startServer(
  model.model,
  "--api-key=key",
  "--cache-memory=1000TiB",
  "--request-timeout=5"
)
let said = ""
server.child.stderr?.on("data", (chunk) => (said += chunk))
const { url } = server
const known = model.at("openapi.json")
writeFileSync(known, withModel(await (await fetch(`${url}/openapi.json`)).text()))

const check = (title: string, document: string, phases: string) => {
  say(`\n── ${title}`)
  const options = {
    url,
    header: "Authorization: Bearer key",
    checks: "all",
    phases,
    "max-examples": values.examples,
    seed: values.seed,
    // A name that is made up is meant to end at 404 in the first, and all is tested in the second.
    warnings: "off",
    "request-timeout": "30"
  }
  const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, value])
  // In the model's folder, since it leaves a cache where it runs.
  return run(python, ["-m", "schemathesis.cli", "run", document, ...flags], model.path)
}
const outcomes = [
  check("the document as it is", `${url}/openapi.json`, "examples,coverage,fuzzing,stateful"),
  check("with the name of the model", known, "examples,coverage,fuzzing")
]
const { status } = await fetch(`${url}/health`)
server.child.kill("SIGKILL")
model.remove()
if (said !== "") say(`\nThe server said:\n${said}`)
const failed = outcomes.some((outcome) => outcome !== 0) || status !== 200
say(failed ? "\nerror: the interface and its document differ" : "\nThe interface is as its document says.")
process.exit(failed ? 1 : 0)
