/** How answers are looked for, and how the page looks. */
import type { Chat } from "../chat.ts"
import { defaults } from "../store.ts"
import { Dialog } from "./dialog.tsx"

interface ChoiceProps<Name extends string> {
  readonly legend: string
  readonly name: string
  readonly value: Name
  readonly options: ReadonlyArray<readonly [Name, string]>
  readonly hint?: string
  readonly onChange: (value: Name) => void
}

const Choice = <Name extends string>({ legend, name, value, options, hint, onChange }: ChoiceProps<Name>) => (
  <fieldset>
    <legend>{legend}</legend>
    <div class="choice">
      {options.map(([option, label]) => (
        <label key={option}>
          <input
            type="radio"
            name={name}
            value={option}
            checked={option === value}
            onChange={() => onChange(option)}
          />
          <span>{label}</span>
        </label>
      ))}
    </div>
    {hint !== undefined && <p class="hint">{hint}</p>}
  </fieldset>
)

interface RangeProps {
  readonly label: string
  readonly hint: string
  readonly value: number
  readonly min: number
  readonly max: number
  readonly onChange: (value: number) => void
}

const Range = ({ label, hint, value, min, max, onChange }: RangeProps) => (
  <label class="field">
    <span class="label">
      {label}
      <output>{value.toFixed(2)}</output>
    </span>
    <input
      type="range"
      min={min}
      max={max}
      step="0.05"
      value={value}
      onInput={({ currentTarget }) => onChange(Number(currentTarget.value))}
    />
    <span class="hint">{hint}</span>
  </label>
)

interface NumberProps {
  readonly label: string
  readonly hint: string
  readonly value: number | undefined
  readonly min: number
  readonly max: number
  readonly onChange: (value: number | undefined) => void
}

/** What is out of bounds counts as nothing said, and looks so. */
const NumberField = ({ label, hint, value, min, max, onChange }: NumberProps) => (
  <label class="field">
    <span class="label">{label}</span>
    <input
      type="number"
      inputMode="numeric"
      min={min}
      max={max}
      step="1"
      defaultValue={value === undefined ? "" : String(value)}
      onInput={({ currentTarget: { value, validity } }) =>
        onChange(value !== "" && validity.valid ? Number(value) : undefined)
      }
    />
    <span class="hint">{hint}</span>
  </label>
)

export const SettingsDialog = ({ chat, onClose }: { chat: Chat; onClose: () => void }) => {
  const { words, state } = chat
  const { settings } = state
  return (
    <Dialog title={words.settings} close={words.close} onClose={onClose}>
      <Choice
        legend={words.search}
        name="search"
        value={settings.search}
        options={[
          ["own", words.own],
          ["greedy", words.greedy],
          ["drawn", words.drawn]
        ]}
        hint={{ own: words.ownHint, greedy: words.greedyHint, drawn: words.drawnHint }[settings.search]}
        onChange={(search) => chat.adjust({ search })}
      />
      {settings.search === "drawn" && (
        <div class="pair">
          <Range
            label={words.temperature}
            hint={words.temperatureHint}
            value={settings.temperature}
            min={0.1}
            max={2}
            onChange={(temperature) => chat.adjust({ temperature })}
          />
          <Range
            label={words.topP}
            hint={words.topPHint}
            value={settings.topP}
            min={0.05}
            max={1}
            onChange={(topP) => chat.adjust({ topP })}
          />
        </div>
      )}
      <div class="pair" key={settings === defaults ? "default" : "own"}>
        <NumberField
          label={words.length}
          hint={words.lengthHint}
          value={settings.length}
          min={1}
          max={4096}
          onChange={(length) => chat.adjust({ length })}
        />
        <NumberField
          label={words.seed}
          hint={words.seedHint}
          value={settings.seed}
          min={0}
          max={2 ** 31 - 1}
          onChange={(seed) => chat.adjust({ seed })}
        />
      </div>
      <Choice
        legend={words.language}
        name="language"
        value={settings.language}
        options={[
          ["auto", words.auto],
          ["zh", "中文"],
          ["en", "English"]
        ]}
        onChange={(language) => chat.adjust({ language })}
      />
      <Choice
        legend={words.theme}
        name="theme"
        value={settings.theme}
        options={[
          ["auto", words.auto],
          ["light", words.light],
          ["dark", words.dark]
        ]}
        onChange={(theme) => chat.adjust({ theme })}
      />
      <div class="row">
        <button type="button" class="quiet" onClick={() => chat.exportAll()}>
          {words.exportAll}
        </button>
        <button type="button" class="quiet" onClick={() => chat.adjust(defaults)}>
          {words.reset}
        </button>
      </div>
    </Dialog>
  )
}
