/** What every verb has in common: threads, device, progress, things on a hub, one uniform type. */
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"

import { FetchSettings, fetchSettings } from "../../fetch/settings.ts"
import { ChosenDevice, Native, ProgressReporter } from "../../native/index.ts"
import type { ChatlmError } from "../../native/index.ts"
import * as Flags from "./flags.ts"
import { Host } from "./host.ts"
import { Output } from "./output.ts"
import { withLocalPaths } from "./references.ts"
import type { Server } from "./server.ts"
import type { Signals } from "./signals.ts"
import { makeProgress } from "./progress.ts"
import type { ProgressView } from "./progress.ts"

/** What a handler may ask for. */
export type Provided = Native | Host | Output | Signals | Server | FileSystem.FileSystem
export type VerbContext = Provided | Scope.Scope

/** A verb as the root command takes it; its flags are its own affair. */
export type Verb = Command.Command<string, never, {}, ChatlmError, Provided>

/** The values of the global flags and the progress display. */
export interface Common {
  readonly seed: Option.Option<number>
  readonly threads: Option.Option<number>
  readonly progress: ProgressView
}

export const verb = <const Name extends string, const Config extends Command.Command.Config>(
  name: Name,
  description: string,
  config: Config,
  handler: (
    flags: Command.Command.Config.Infer<Config>,
    common: Common
  ) => Effect.Effect<void, ChatlmError, VerbContext>,
  examples: ReadonlyArray<Command.Command.Example> = []
): Verb => {
  const command = Command.make(name, config, (flags) =>
    Effect.gen(function* () {
      const host = yield* Host
      const output = yield* Output
      const threads = yield* Flags.Threads
      const device = Option.getOrUndefined(yield* Flags.Device)
      if (device !== undefined) yield* Effect.flatMap(Native, (native) => native.checkDevice(device))
      if (Option.isSome(threads)) yield* Effect.flatMap(Native, (native) => native.setThreads(threads.value))
      const seed = yield* Flags.Seed
      const progress = makeProgress(host, output)
      yield* withLocalPaths(flags).pipe(
        Effect.flatMap((local) => handler(local, { seed, threads, progress })),
        Effect.scoped,
        Effect.provideService(ProgressReporter, progress.report),
        Effect.provideService(ChosenDevice, device),
        Effect.provideService(FetchSettings, fetchSettings(host.env)),
        Effect.ensuring(Effect.sync(progress.stop))
      )
    })
  ).pipe(Command.withDescription(description), Command.withExamples(examples))
  // The root puts verbs of different flags side by side, which only an erased type allows.
  return command as unknown as Verb
}

/** A word that groups verbs, such as `tokenizer`. */
export const group = (name: string, description: string, verbs: readonly [Verb, ...Array<Verb>]): Verb =>
  Command.make(name).pipe(
    Command.withDescription(description),
    Command.withSubcommands(verbs)
  ) as unknown as Verb
