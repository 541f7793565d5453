/** The flags that many verbs share, and the spelling `--in A B C`. */
import * as Flag from "effect/cli/Flag"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import * as Option from "effect/Option"

const on = (name: string, description: string) =>
  Flag.Boolean(name).pipe(Flag.withDescription(description), Flag.withoutNegation, Flag.withDefault(false))

export const boolean = on

export const integer = (name: string, description: string, minimum = 0) =>
  Flag.Int(name).pipe(
    Flag.filter(
      (value) => value >= minimum,
      (value) => `must be at least ${minimum}, not ${value}`
    ),
    Flag.withMetavar("N"),
    Flag.withDescription(description)
  )

// These hold for every verb; json, quiet and debug are read from the arguments before anything is parsed.
export const Json = GlobalFlag.Setting("json")({
  flag: on("json", "Print one JSON object (or one a line) on standard output and nothing else there")
})
export const Quiet = GlobalFlag.Setting("quiet")({ flag: on("quiet", "No progress and no notes") })
export const Debug = GlobalFlag.Setting("debug")({ flag: on("debug", "Show where an error comes from") })
export const Threads = GlobalFlag.Setting("threads")({
  flag: integer("threads", "Threads of the core (default: all)", 1).pipe(Flag.optional)
})
export const Seed = GlobalFlag.Setting("seed")({
  flag: integer("seed", "Seed of everything random (default 23333; chat and serve draw one)").pipe(
    Flag.optional
  )
})
export const Device = GlobalFlag.Setting("device")({
  flag: Flag.String("device").pipe(
    Flag.withMetavar("DEVICE"),
    Flag.withDescription(
      "cpu, cuda:N or metal (default: the best one built in); cuda:0,cuda:1 for as many --workers"
    ),
    Flag.optional
  )
})

export const globalFlags = [Json, Quiet, Debug, Threads, Seed, Device] as const

export const defaultSeed = 23_333

/** `--in PATH…`: files, folders, globs, `-` for standard input. */
export const inputs = Flag.String("in").pipe(
  Flag.withMetavar("PATH…"),
  Flag.withDescription("Files, folders or globs; - is standard input; hf:datasets/owner/name"),
  Flag.atLeast(1)
)
export const optionalInputs = Flag.String("in").pipe(
  Flag.withMetavar("PATH…"),
  Flag.withDescription("Files, folders or globs; - is standard input; hf:datasets/owner/name"),
  Flag.atLeast(0)
)

/** `--port N`. */
export const port = (usual: number) =>
  integer("port", "The port to listen on; 0 takes a free one").pipe(
    Flag.filter(
      (port) => port <= 65_535,
      (port) => `must be at most 65535, not ${port}`
    ),
    Flag.withDefault(usual)
  )

export const text = (name: string, description: string, metavar = "TEXT") =>
  Flag.String(name).pipe(Flag.withMetavar(metavar), Flag.withDescription(description))

export const output = text("out", "Where the result goes", "PATH")
export const force = on("force", "Replace an existing target")
export const encoding = text("encoding", "Encoding of text inputs (default: detected)", "NAME").pipe(
  Flag.optional
)
export const keepGoing = on("keep-going", "Count broken rows instead of stopping at the first")
export const model = text("model", "A model folder, or hf:owner/name", "DIR")
export const adapter = text("adapter", "A PEFT adapter folder for the model", "DIR").pipe(Flag.optional)
export const dtypes = ["f32", "f16", "bf16", "int8"] as const
export const dtype = Flag.Literals("dtype", dtypes).pipe(
  Flag.withDescription("Precision of the weights (default: what the folder holds)"),
  Flag.optional
)

/** A key only where there is a value, as `exactOptionalPropertyTypes` wants it. */
export const given = <const Key extends string, A>(key: Key, value: Option.Option<A>): { [K in Key]?: A } =>
  Option.isSome(value) ? ({ [key]: value.value } as { [K in Key]?: A }) : {}

const many = new Set(["--against", "--in", "--set"])

/** `--in A B` is `--in A --in B`: what follows up to the next flag belongs to it. */
export const spread = (args: ReadonlyArray<string>): ReadonlyArray<string> => {
  const result: Array<string> = []
  let flag: string | undefined
  let first = false
  for (const [index, arg] of args.entries()) {
    if (arg === "--") return [...result, ...args.slice(index)]
    if (arg.startsWith("-") && arg !== "-") {
      flag = many.has(arg) ? arg : undefined
      first = true
    } else if (flag !== undefined) {
      if (!first) result.push(flag)
      first = false
    }
    result.push(arg)
  }
  return result
}
