/** HTML as values: what is put into a template is text unless it is HTML already, so data never becomes markup. */

/** Markup that is safe to show. */
export class Html {
  readonly text: string
  constructor(text: string) {
    this.text = text
  }
}

type Part = Html | string | number | undefined | false | ReadonlyArray<Part>

const entities: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;"
}

/** Text as HTML shows it; control characters, which HTML may not hold, as their pictures. */
export const escape = (text: string): string =>
  text
    .toWellFormed()
    .replaceAll(/[&<>"']/g, (sign) => entities[sign] ?? sign)
    // oxlint-disable-next-line no-control-regex -- those are what is looked for
    .replaceAll(/[\u0000-\u0008\u000B\u000C\u000E-\u001F]/g, (sign) =>
      String.fromCharCode(0x24_00 + sign.charCodeAt(0))
    )

const show = (part: Part): string => {
  if (part === undefined || part === false) return ""
  if (part instanceof Html) return part.text
  if (typeof part === "string") return escape(part)
  if (typeof part === "number") return String(part)
  return part.map(show).join("")
}

/** A template of markup; lists are joined, `undefined` and `false` are nothing. */
export const html = (strings: TemplateStringsArray, ...parts: ReadonlyArray<Part>): Html =>
  new Html(strings.map((text, index) => text + show(parts[index])).join(""))
