/**
 * The errors of this program, one class a kind; the kind decides the exit status. The fields are those of
 * the envelope that crosses the border (crates/chatlm-job/src/error.rs owns the codes), and errors found
 * in TypeScript are built from the same classes.
 */
import * as Data from "effect/Data"

export interface ErrorFields {
  /** Stable, in capitals, such as `INPUT_NOT_FOUND`. */
  readonly code: string
  /** One sentence: what is wrong and where. */
  readonly message: string
  /** One sentence: what to do. */
  readonly help: string
  /** `file`, `row`, `field`, `step`, … */
  readonly context: Readonly<Record<string, unknown>>
  readonly cause?: unknown
}

/** The command was called wrongly; exit status 1. */
export class UsageError extends Data.TaggedError("UsageError")<ErrorFields> {}
/** Data, configuration, model or checkpoint is missing or broken; exit status 2. */
export class InputError extends Data.TaggedError("InputError")<ErrorFields> {}
/** Disk, permission, port, device; exit status 3. */
export class EnvironmentError extends Data.TaggedError("EnvironmentError")<ErrorFields> {}
/** A bug in this program; exit status 4. */
export class BugError extends Data.TaggedError("BugError")<ErrorFields> {}
/** Interrupted, with what was done saved; exit status 130. */
export class CancelledError extends Data.TaggedError("CancelledError")<ErrorFields> {}

export type ChatlmError = UsageError | InputError | EnvironmentError | BugError | CancelledError

const kinds = {
  USAGE: UsageError,
  TARGET_EXISTS: UsageError,
  INPUT_NOT_FOUND: InputError,
  INPUT_FORMAT: InputError,
  INPUT_ROW: InputError,
  CONFIG_INVALID: InputError,
  MODEL_INVALID: InputError,
  TOKENIZER_INVALID: InputError,
  CHECKPOINT_INVALID: InputError,
  RESUME_MISMATCH: InputError,
  NOT_FINITE: InputError,
  DISK_FULL: EnvironmentError,
  PERMISSION_DENIED: EnvironmentError,
  PORT_IN_USE: EnvironmentError,
  QUEUE_FULL: EnvironmentError,
  IO: EnvironmentError,
  DEVICE_UNAVAILABLE: EnvironmentError,
  PRECISION_UNAVAILABLE: EnvironmentError,
  WORKER_LOST: EnvironmentError,
  /** The native addon is not built or does not load; only TypeScript can find this out. */
  ADDON_UNAVAILABLE: EnvironmentError,
  /** A server that cannot be reached or keeps failing; only TypeScript talks to servers. */
  NETWORK: EnvironmentError,
  INTERNAL: BugError,
  CANCELLED: CancelledError
} as const

export type ErrorCode = keyof typeof kinds

const exitStatuses = {
  UsageError: 1,
  InputError: 2,
  EnvironmentError: 3,
  BugError: 4,
  CancelledError: 130
} as const

export const exitStatus = (error: ChatlmError): number => exitStatuses[error._tag]

export const isChatlmError = (error: unknown): error is ChatlmError =>
  error instanceof UsageError ||
  error instanceof InputError ||
  error instanceof EnvironmentError ||
  error instanceof BugError ||
  error instanceof CancelledError

/** The error of a code; its kind follows from the code. */
export const makeError = <Code extends ErrorCode>(
  code: Code,
  message: string,
  help: string,
  context: Readonly<Record<string, unknown>> = {},
  cause?: unknown
): InstanceType<(typeof kinds)[Code]> => {
  // TypeScript does not see that the constructor belongs to the code.
  const Kind = kinds[code] as unknown as new (fields: ErrorFields) => InstanceType<(typeof kinds)[Code]>
  return new Kind({ code, message, help, context, ...(cause === undefined ? {} : { cause }) })
}

const bugHelp = "this is a bug in chatlm: please report it with the command and its --debug output"

/** Anything unforeseen. */
export const bug = (cause: unknown): BugError =>
  makeError("INTERNAL", cause instanceof Error ? cause.message : String(cause), bugHelp, {}, cause)

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** What the border threw: its message is the envelope as JSON; anything else is a bug. */
export const fromBorder = (thrown: unknown): ChatlmError => {
  if (isChatlmError(thrown)) return thrown
  if (!(thrown instanceof Error)) return bug(thrown)
  let envelope: unknown
  try {
    envelope = JSON.parse(thrown.message)
  } catch {
    return bug(thrown)
  }
  if (!isRecord(envelope) || typeof envelope.code !== "string" || typeof envelope.message !== "string") {
    return bug(thrown)
  }
  const fields = {
    code: envelope.code,
    message: envelope.message,
    help: typeof envelope.help === "string" ? envelope.help : "",
    context: isRecord(envelope.context) ? envelope.context : {},
    cause: thrown
  }
  const Kind = Object.hasOwn(kinds, fields.code) ? kinds[fields.code as ErrorCode] : BugError
  return new Kind(fields)
}

/** The envelope again: what `--json` prints and HTTP answers carry. */
export const toEnvelope = (error: ChatlmError) => ({
  code: error.code,
  message: error.message,
  help: error.help,
  context: error.context
})
