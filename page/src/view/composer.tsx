/** The field for questions. Enter sends, but not while a Chinese word is being put together. */
import type { RefObject } from "preact"
import { useLayoutEffect, useState } from "preact/hooks"

import type { Chat } from "../chat.ts"
import { Icon } from "./icons.tsx"

interface Props {
  readonly chat: Chat
  readonly field: RefObject<HTMLTextAreaElement | null>
  readonly onEditLast: () => void
}

/** Not on touch screens, where the focus would bring up the keyboard. */
export const focusField = (field: HTMLTextAreaElement | null) => {
  if (!matchMedia("(pointer: coarse)").matches) field?.focus()
}

/** 229: some browsers tell so that an input method takes the key. */
const isComposing = (event: KeyboardEvent) => event.isComposing || event.keyCode === 229

export const Composer = ({ chat, field, onEditLast }: Props) => {
  const { state, words } = chat
  const [text, type] = useState("")
  const busy = state.answering !== undefined
  useLayoutEffect(() => focusField(field.current), [field, state.current])
  useLayoutEffect(() => {
    const { current } = field
    if (current === null) return
    current.style.height = "auto"
    current.style.height = `${current.scrollHeight}px`
  }, [field, text])
  const send = () => {
    if (busy || text.trim() === "") return
    chat.send(text)
    type("")
  }
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault()
        send()
      }}
    >
      <textarea
        ref={field}
        rows={1}
        value={text}
        aria-label={words.question}
        aria-describedby="hint"
        placeholder={words.placeholder}
        autocomplete="off"
        enterkeyhint="send"
        onInput={({ currentTarget }) => type(currentTarget.value)}
        onKeyDown={(event) => {
          if (isComposing(event)) return
          if (event.key === "Enter" && !event.shiftKey) {
            event.preventDefault()
            send()
          }
          if (event.key === "ArrowUp" && text === "" && !event.altKey) {
            event.preventDefault()
            onEditLast()
          }
        }}
      />
      {busy ? (
        <button
          type="button"
          class="go"
          aria-label={words.stop}
          title={`${words.stop} (Esc)`}
          onClick={() => chat.stop()}
        >
          <Icon name="stop" />
        </button>
      ) : (
        <button
          type="submit"
          class="go"
          aria-label={words.send}
          title={words.send}
          disabled={text.trim() === ""}
        >
          <Icon name="send" />
        </button>
      )}
      <p id="hint">{words.sendHint}</p>
    </form>
  )
}
