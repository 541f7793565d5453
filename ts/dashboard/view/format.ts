/** Figures as people read them. */

const shorten = (value: number, units: ReadonlyArray<string>, base: number, digits: number): string => {
  let place = 0
  let rest = value
  while (Math.abs(rest) >= base && place < units.length - 1) {
    rest /= base
    place += 1
  }
  return `${Number(rest.toPrecision(digits))}${units[place] ?? ""}`
}

/** `950`, `1.2k`, `3.45M`. */
export const short = (value: number): string => shorten(value, ["", "k", "M", "G", "T"], 1000, 3)

/** `512 MiB`. */
export const bytes = (value: number): string =>
  shorten(value, [" B", " KiB", " MiB", " GiB", " TiB"], 1024, 4)

/** Four figures that count; very small ones by their power. */
export const figure = (value: number): string => {
  if (value === 0) return "0"
  const size = Math.abs(value)
  if (size >= 10_000) return short(value)
  return size >= 0.001 ? String(Number(value.toPrecision(4))) : value.toExponential(2)
}

export const share = (value: number): string => `${Number((value * 100).toPrecision(3))} %`

export const whole = (value: number): string => Math.round(value).toLocaleString("en-US")

/** `45 s`, `12 min`, `3 h 20`, `2 d 4 h`. */
export const duration = (seconds: number): string => {
  const two = (value: number) => String(Math.floor(value)).padStart(2, "0")
  if (seconds < 90) return `${Number(seconds.toPrecision(2))} s`
  if (seconds < 5400) return `${Number((seconds / 60).toPrecision(2))} min`
  if (seconds < 172_800) {
    const minutes = Math.round(seconds / 60)
    return `${Math.floor(minutes / 60)} h ${two(minutes % 60)}`
  }
  const hours = Math.round(seconds / 3600)
  return `${Math.floor(hours / 24)} d ${hours % 24} h`
}

/** Day and time of day, UTC: the same page is the same text everywhere. */
export const moment = (seconds: number): string =>
  new Date(seconds * 1000).toISOString().slice(5, 16).replace("T", " ")
