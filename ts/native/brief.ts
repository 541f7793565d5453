/** Options with the switches that are off unless they are named. */

type Switch = "compat" | "keepGoing" | "force"

/** Options of the border, where the switches may be left out. */
export type Brief<Options> = Omit<Options, Switch> & Partial<Pick<Options, Switch & keyof Options>>

/** All of the options; the border passes over a switch that a call does not have. */
export const spelledOut = <Options>(brief: Brief<Options>): Options =>
  ({ compat: false, keepGoing: false, force: false, ...brief }) as Options
