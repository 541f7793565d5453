/** The conversations that the browser keeps. On narrow screens it lies over the page. */
import { useEffect, useRef } from "preact/hooks"

import type { Chat } from "../chat.ts"
import { Icon, IconButton } from "./icons.tsx"

interface Props {
  readonly chat: Chat
  readonly hidden: boolean
  readonly onBegin: () => void
  readonly onOpen: (id: string) => void
  readonly onClose: () => void
  readonly onSettings: () => void
  readonly onShortcuts: () => void
}

export const Sidebar = ({ chat, hidden, onBegin, onOpen, onClose, onSettings, onShortcuts }: Props) => {
  const { state, words } = chat
  const nav = useRef<HTMLElement>(null)
  const wasHidden = useRef(hidden)
  useEffect(() => {
    if (wasHidden.current && !hidden) nav.current?.querySelector<HTMLElement>("button")?.focus()
    wasHidden.current = hidden
  }, [hidden])
  return (
    <nav class="sidebar" aria-label={words.conversations} inert={hidden} ref={nav}>
      <div class="brand">
        <img src="/icon.svg" alt="" width="26" height="26" />
        <span>chatlm</span>
        <IconButton class="only-narrow" icon="close" label={words.closeList} onClick={onClose} />
      </div>
      <button type="button" class="begin" onClick={onBegin}>
        <Icon name="plus" />
        {words.newChat}
      </button>
      <ul class="list">
        {state.conversations.map(({ id, title }) => (
          <li key={id}>
            <button
              type="button"
              aria-current={id === state.current ? "page" : undefined}
              onClick={() => onOpen(id)}
            >
              <span>{title === "" ? words.untitled : title}</span>
              {id === state.answering && <i class="dot" />}
            </button>
          </li>
        ))}
      </ul>
      <div class="foot">
        <button type="button" class="plain" onClick={onSettings}>
          <Icon name="gear" />
          {words.settings}
        </button>
        <IconButton icon="keys" label={words.shortcuts} onClick={onShortcuts} />
      </div>
    </nav>
  )
}
