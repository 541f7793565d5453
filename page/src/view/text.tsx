/** Text of a model or a person as nodes: never HTML. Lines between ``` are set as code, nothing else is read. */
import { useMemo } from "preact/hooks"

export interface Part {
  readonly code: boolean
  readonly text: string
}

/** Code and prose in turns; a fence that is not closed yet reaches to the end. */
export const partsOf = (text: string): ReadonlyArray<Part> => {
  const parts: Array<Part> = []
  let code = false
  let lines: Array<string> = []
  const end = () => {
    const said = lines.join("\n")
    if (said.trim() !== "") parts.push({ code, text: code ? said : said.replace(/^\n+|\n+$/g, "") })
    lines = []
  }
  for (const line of text.split("\n")) {
    if (/^\s*```/.test(line)) {
      end()
      code = !code
    } else lines.push(line)
  }
  end()
  return parts
}

/** Drawn again only where the text is another: an answer that grows leaves those before it alone. */
export const Text = ({ text }: { text: string }) =>
  useMemo(
    () => (
      <div class="text" dir="auto">
        {partsOf(text).map(({ code, text }, place) =>
          code ? (
            <pre key={place} tabIndex={0}>
              <code>{text}</code>
            </pre>
          ) : (
            <p key={place}>{text}</p>
          )
        )}
      </div>
    ),
    [text]
  )
