import type { Words } from "../words.ts"
import { Dialog } from "./dialog.tsx"

export const ShortcutsDialog = ({ words, onClose }: { words: Words; onClose: () => void }) => (
  <Dialog title={words.shortcuts} close={words.close} onClose={onClose}>
    <dl class="keys">
      {words.keys.map(([keys, what]) => (
        <div key={keys}>
          <dt>
            <kbd>{keys}</kbd>
          </dt>
          <dd>{what}</dd>
        </div>
      ))}
    </dl>
  </Dialog>
)
