/** The line above a conversation: its name and what can be done with all of it. */
import { useEffect, useState } from "preact/hooks"

import type { Chat } from "../chat.ts"
import { IconButton } from "./icons.tsx"

export const Top = ({ chat, onList, onBegin }: { chat: Chat; onList: () => void; onBegin: () => void }) => {
  const { state, words, conversation } = chat
  const [naming, name] = useState(false)
  useEffect(() => name(false), [conversation?.id])
  const finish = (title: string | undefined) => {
    if (title !== undefined && conversation) chat.rename(conversation.id, title)
    name(false)
  }
  const title = conversation?.title ?? words.newChat
  return (
    <header>
      <IconButton class="only-narrow" icon="menu" label={words.openList} onClick={onList} />
      {naming && conversation ? (
        <input
          class="naming"
          aria-label={words.renamePrompt}
          defaultValue={title}
          ref={(input) => input?.select()}
          onBlur={({ currentTarget }) => finish(currentTarget.value)}
          onKeyDown={(event) => {
            if (event.isComposing) return
            if (event.key === "Enter") {
              // The field that gets the focus now would take the key as its own.
              event.preventDefault()
              finish(event.currentTarget.value)
            }
            if (event.key === "Escape") {
              event.stopPropagation()
              finish(undefined)
            }
          }}
        />
      ) : (
        <h1>{title}</h1>
      )}
      {state.model !== "" && <span class="model">{state.model}</span>}
      {conversation && (
        <div class="actions">
          <IconButton icon="pen" label={words.rename} onClick={() => name(true)} />
          <IconButton icon="save" label={words.exportOne} onClick={() => chat.exportOne()} />
          <IconButton
            icon="bin"
            label={words.remove}
            disabled={state.answering === conversation.id}
            onClick={() => chat.remove(conversation.id)}
          />
        </div>
      )}
      <IconButton class="only-narrow" icon="plus" label={words.newChat} onClick={onBegin} />
    </header>
  )
}
