/** The browser's own dialog: it keeps the focus inside, Esc closes it, and the focus goes back. */
import type { ComponentChildren } from "preact"
import { useLayoutEffect, useRef } from "preact/hooks"

import { IconButton } from "./icons.tsx"

interface Props {
  readonly title: string
  readonly close: string
  readonly onClose: () => void
  readonly children: ComponentChildren
}

export const Dialog = ({ title, close, onClose, children }: Props) => {
  const dialog = useRef<HTMLDialogElement>(null)
  useLayoutEffect(() => {
    const { current } = dialog
    current?.showModal()
    return () => current?.close()
  }, [])
  return (
    <dialog
      ref={dialog}
      aria-labelledby="dialog-title"
      onClose={onClose}
      onClick={({ target }) => {
        if (target === dialog.current) dialog.current?.close()
      }}
    >
      <div class="sheet">
        <div class="head">
          <h2 id="dialog-title">{title}</h2>
          <IconButton icon="close" label={close} onClick={() => dialog.current?.close()} />
        </div>
        {children}
      </div>
    </dialog>
  )
}
