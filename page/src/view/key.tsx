/** Asks for the key of a server that wants one. */
import { useState } from "preact/hooks"

import type { Chat } from "../chat.ts"

export const KeyCard = ({ chat }: { chat: Chat }) => {
  const { state, words } = chat
  const [key, type] = useState("")
  const [remember, setRemember] = useState(false)
  return (
    <form
      class="key-card"
      onSubmit={(event) => {
        event.preventDefault()
        if (key.trim() !== "") void chat.useKey(key, remember)
      }}
    >
      <p id="key-asked" role="alert">
        {state.key === "wrong" ? words.keyWrong : words.keyAsked}
      </p>
      <div class="row">
        <input
          type="password"
          aria-label={words.key}
          aria-describedby="key-asked"
          autocomplete="off"
          value={key}
          onInput={({ currentTarget }) => type(currentTarget.value)}
        />
        <button type="submit" class="primary">
          {words.keyUse}
        </button>
      </div>
      <label class="check">
        <input
          type="checkbox"
          checked={remember}
          onChange={({ currentTarget }) => setRemember(currentTarget.checked)}
        />
        {words.keyRemember}
      </label>
    </form>
  )
}
