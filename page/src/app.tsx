/** The shell of the page: list, conversation, field, dialogs, and the keys that work everywhere. */
import type { RefObject } from "preact"
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks"

import type { Chat } from "./chat.ts"
import { Composer, focusField } from "./view/composer.tsx"
import { KeyCard } from "./view/key.tsx"
import { Messages } from "./view/messages.tsx"
import { SettingsDialog } from "./view/settings.tsx"
import { ShortcutsDialog } from "./view/shortcuts.tsx"
import { Sidebar } from "./view/sidebar.tsx"
import { Top } from "./view/top.tsx"

const isField = (target: EventTarget | null) =>
  target instanceof HTMLElement && target.matches("input, textarea, select")

const narrow = matchMedia("(max-width: 50rem)")

const useNarrow = () => {
  const [is, set] = useState(narrow.matches)
  useEffect(() => {
    const listen = () => set(narrow.matches)
    narrow.addEventListener("change", listen)
    return () => narrow.removeEventListener("change", listen)
  }, [])
  return is
}

/** Where what had the focus is gone or can do nothing now, the field takes it. */
const useKeptFocus = (field: RefObject<HTMLTextAreaElement | null>) => {
  const last = useRef<Element | undefined>(undefined)
  useEffect(() => {
    const took = ({ target }: FocusEvent) => {
      last.current = target instanceof Element ? target : undefined
    }
    // Who clicks beside everything wants no focus.
    const pointed = () => {
      last.current = undefined
    }
    addEventListener("focusin", took)
    addEventListener("pointerdown", pointed)
    return () => {
      removeEventListener("focusin", took)
      removeEventListener("pointerdown", pointed)
    }
  }, [])
  useLayoutEffect(() => {
    const { current } = last
    const isLost = current !== undefined && (!current.isConnected || current.matches(":disabled"))
    if (isLost && document.activeElement === document.body) focusField(field.current)
  })
}

export const App = ({ chat }: { chat: Chat }) => {
  const [, redraw] = useState(0)
  const [dialog, show] = useState<"settings" | "shortcuts" | undefined>()
  const [listOpen, openList] = useState(false)
  const [editing, edit] = useState<string | undefined>()
  const field = useRef<HTMLTextAreaElement>(null)
  const isNarrow = useNarrow()
  useKeptFocus(field)
  useEffect(() => chat.subscribe(() => redraw((n) => n + 1)), [chat])

  const { state, words, conversation } = chat
  const focus = () => field.current?.focus()
  const begin = () => {
    chat.begin()
    openList(false)
    focus()
  }
  const editLast = () => {
    const last = conversation?.messages.findLast(({ role }) => role === "user")
    if (last !== undefined && state.answering === undefined) edit(last.id)
  }
  const copyLast = async () => {
    const last = conversation?.messages.findLast(({ role }) => role === "assistant")
    if (last === undefined) return
    await navigator.clipboard.writeText(last.text)
    chat.say(words.copied)
  }

  useLayoutEffect(() => {
    const altKeys: Record<string, () => void> = {
      KeyN: begin,
      KeyR: () => chat.retry(),
      KeyC: () => void copyLast(),
      ArrowUp: () => chat.move(-1),
      ArrowDown: () => chat.move(1)
    }
    const listen = (event: KeyboardEvent) => {
      if (event.isComposing || dialog !== undefined) return
      const act = event.altKey && !event.ctrlKey && !event.metaKey ? altKeys[event.code] : undefined
      if (act !== undefined) {
        event.preventDefault()
        act()
      } else if (event.key === "Escape") {
        if (listOpen) openList(false)
        else if (editing === undefined) chat.stop()
      } else if (!isField(event.target) && !event.ctrlKey && !event.metaKey && !event.altKey) {
        if (event.key === "/") {
          event.preventDefault()
          focus()
        } else if (event.key === "?") show("shortcuts")
      }
    }
    addEventListener("keydown", listen)
    return () => removeEventListener("keydown", listen)
  })

  const covered = isNarrow && listOpen
  return (
    <div class={`app${listOpen ? " list-open" : ""}`}>
      <Sidebar
        chat={chat}
        hidden={isNarrow && !listOpen}
        onBegin={begin}
        onOpen={(id) => {
          chat.open(id)
          edit(undefined)
          openList(false)
        }}
        onClose={() => openList(false)}
        onSettings={() => show("settings")}
        onShortcuts={() => show("shortcuts")}
      />
      {covered && <div class="veil" onClick={() => openList(false)} />}
      <div class="pane" inert={covered}>
        <Top chat={chat} onList={() => openList(true)} onBegin={begin} />
        <main>
          <Messages chat={chat} editing={editing} onEdit={edit} onAsk={(text) => chat.send(text)} />
        </main>
        <footer>
          {state.key !== "none" && <KeyCard chat={chat} />}
          {state.storageFull && (
            <p class="notice" role="alert">
              {words.failures.storage}
            </p>
          )}
          {state.removed !== undefined && (
            <p class="notice">
              {words.removed(state.removed.title)}
              <button type="button" class="link" onClick={() => chat.bringBack()}>
                {words.undo}
              </button>
            </p>
          )}
          <Composer chat={chat} field={field} onEditLast={editLast} />
        </footer>
      </div>
      <div class="unseen" role="status" aria-live="polite">
        {state.said}
      </div>
      {dialog === "settings" && <SettingsDialog chat={chat} onClose={() => show(undefined)} />}
      {dialog === "shortcuts" && <ShortcutsDialog words={words} onClose={() => show(undefined)} />}
    </div>
  )
}
