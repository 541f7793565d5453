/** Options of the border where some may be left out, since the library has a default for them. */

/** Switches that are off unless they are named. */
export const switches = { compat: false, keepGoing: false, force: false } as const

/** Options of the border without the need to name what `Defaults` has. */
export type Brief<Options, Defaults> = Omit<Options, keyof Defaults> &
  Partial<Pick<Options, keyof Options & keyof Defaults>>

/** All of the options; the border passes over a default that a call does not take. */
export const spelledOut = <Options, Defaults extends object>(
  brief: Brief<Options, Defaults>,
  defaults: Defaults
): Options => ({ ...defaults, ...brief }) as unknown as Options
