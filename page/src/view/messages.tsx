/** A conversation. It follows an answer as it grows, unless the reader has scrolled away. */
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks"

import type { Chat } from "../chat.ts"
import type { Failure } from "../client.ts"
import type { Message } from "../store.ts"
import type { Words } from "../words.ts"
import { Icon, IconButton } from "./icons.tsx"
import { Text } from "./text.tsx"

const CopyButton = ({ text, words, chat }: { text: string; words: Words; chat: Chat }) => {
  const [copied, set] = useState(false)
  const copy = async () => {
    await navigator.clipboard.writeText(text)
    set(true)
    chat.say(words.copied)
    setTimeout(() => set(false), 1500)
  }
  return (
    <IconButton
      icon={copied ? "check" : "copy"}
      label={copied ? words.copied : words.copy}
      onClick={() => void copy()}
    />
  )
}

const Problem = ({ failure, words, onRetry }: { failure: Failure; words: Words; onRetry?: () => void }) => {
  const [now, tick] = useState(Date.now())
  const left = Math.max(0, Math.ceil(((failure.after ?? 0) - now) / 1000))
  useEffect(() => {
    if (left === 0) return
    const timer = setTimeout(() => tick(Date.now()), 250)
    return () => clearTimeout(timer)
  }, [left, now])
  const shown = failure.kind === "refused" || failure.kind === "server" || failure.kind === "large"
  return (
    <div class="problem" role="alert">
      <p>{words.failures[failure.kind]}</p>
      {shown && failure.detail && (
        <p class="detail" lang="en">
          {failure.detail}
        </p>
      )}
      {onRetry && (
        <button type="button" disabled={left > 0} onClick={onRetry}>
          {words.again(left)}
        </button>
      )}
    </div>
  )
}

const Editor = ({
  message,
  words,
  onDone
}: {
  message: Message
  words: Words
  onDone: (text?: string) => void
}) => {
  const field = useRef<HTMLTextAreaElement>(null)
  useLayoutEffect(() => {
    field.current?.focus()
    field.current?.setSelectionRange(message.text.length, message.text.length)
  }, [message.text])
  const send = () => onDone(field.current?.value)
  return (
    <div class="editor">
      <textarea
        ref={field}
        aria-label={words.edit}
        defaultValue={message.text}
        rows={Math.min(10, message.text.split("\n").length + 1)}
        onKeyDown={(event) => {
          if (event.isComposing) return
          if (event.key === "Enter" && !event.shiftKey) {
            event.preventDefault()
            send()
          }
          if (event.key === "Escape") {
            event.stopPropagation()
            onDone()
          }
        }}
      />
      <div class="row">
        <button type="button" class="quiet" onClick={() => onDone()}>
          {words.cancel}
        </button>
        <button type="button" class="primary" onClick={send}>
          {words.save}
        </button>
      </div>
    </div>
  )
}

interface Props {
  readonly chat: Chat
  readonly editing: string | undefined
  readonly onEdit: (id: string | undefined) => void
  readonly onAsk: (text: string) => void
}

export const Messages = ({ chat, editing, onEdit, onAsk }: Props) => {
  const { state, words, conversation } = chat
  const scroller = useRef<HTMLDivElement>(null)
  const follows = useRef(true)
  const [away, setAway] = useState(false)
  const toEnd = () => {
    follows.current = true
    setAway(false)
    scroller.current?.scrollTo({ top: scroller.current.scrollHeight })
  }
  const messages = conversation?.messages ?? []
  const questions = messages.filter(({ role }) => role === "user").length
  useLayoutEffect(toEnd, [conversation?.id, questions])
  useLayoutEffect(() => {
    const { current } = scroller
    if (follows.current && current) current.scrollTop = current.scrollHeight
  })
  if (messages.length === 0) {
    return (
      <div class="welcome">
        <img src="/icon.svg" alt="" width="52" height="52" />
        <h2>{words.welcome}</h2>
        <p>{words.welcomeHint}</p>
        <ul>
          {words.examples.map((text) => (
            <li key={text}>
              <button type="button" disabled={state.answering !== undefined} onClick={() => onAsk(text)}>
                {text}
              </button>
            </li>
          ))}
        </ul>
      </div>
    )
  }
  const busy = state.answering !== undefined
  const ours = state.answering === conversation?.id
  return (
    <div
      class="scroll"
      ref={scroller}
      tabIndex={-1}
      onScroll={({ currentTarget: { scrollTop, scrollHeight, clientHeight } }) => {
        follows.current = scrollHeight - scrollTop - clientHeight < 40
        setAway(!follows.current)
      }}
    >
      <ol class="messages">
        {messages.map((message, place) => {
          const { id, role, text, end, failure, promptCut } = message
          const last = place === messages.length - 1
          const running = last && ours && role === "assistant"
          if (role === "user") {
            return (
              <li key={id} class="mine">
                <h2 class="unseen">{words.you}</h2>
                {editing === id ? (
                  <Editor
                    message={message}
                    words={words}
                    onDone={(changed) => {
                      onEdit(undefined)
                      if (changed !== undefined) chat.change(id, changed)
                    }}
                  />
                ) : (
                  <>
                    <Text text={text} />
                    <div class="tools">
                      <CopyButton text={text} words={words} chat={chat} />
                      {last && !busy && (
                        <IconButton icon="retry" label={words.retry} onClick={() => chat.retry()} />
                      )}
                      <IconButton icon="pen" label={words.edit} disabled={busy} onClick={() => onEdit(id)} />
                    </div>
                  </>
                )}
              </li>
            )
          }
          return (
            <li key={id} class="theirs" aria-busy={running}>
              <h2 class="unseen">{words.model}</h2>
              {text !== "" && <Text text={text} />}
              {running && text === "" && (
                <p class="pending">
                  {state.waiting ? (
                    words.loading
                  ) : (
                    <span class="dots" aria-label={words.answering} role="img" />
                  )}
                </p>
              )}
              {end === "stopped" && <p class="end">{words.stopped}</p>}
              {end === "length" && <p class="end">{words.cut}</p>}
              {promptCut && <p class="end">{words.promptCut}</p>}
              {failure && (
                <Problem
                  failure={failure}
                  words={words}
                  {...(last && !busy ? { onRetry: () => chat.retry() } : {})}
                />
              )}
              {!running && (
                <div class="tools">
                  {text !== "" && <CopyButton text={text} words={words} chat={chat} />}
                  {last && !failure && (
                    <IconButton
                      icon="retry"
                      label={words.retry}
                      disabled={busy}
                      onClick={() => chat.retry()}
                    />
                  )}
                </div>
              )}
            </li>
          )
        })}
      </ol>
      {away && (
        <button type="button" class="to-end" aria-label={words.toEnd} title={words.toEnd} onClick={toEnd}>
          <Icon name="down" />
        </button>
      )}
    </div>
  )
}
