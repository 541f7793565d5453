/** Small line drawings; what a button does stands in its label. */
const paths = {
  send: "M12 19V5M5.500 11.500 12 5l6.500 6.500",
  stop: "M7 7h10v10H7z",
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6 6 18",
  pen: "M4 20l1-4.500L16 4.500l3.500 3.500L8.500 19zM13.500 7l3.500 3.500",
  copy: "M9 9h10v11H9zM15 9V4.500H5V16h4",
  check: "M5 12.500l4.500 4.500L19 7.500",
  retry: "M19 12a7 7 0 1 1-2.200-5.100M19 4v4h-4",
  save: "M12 4v11M7 10.500l5 5 5-5M5 20h14",
  bin: "M5 7h14M10 7V4.500h4V7M7 7l.8 12.500h8.400L17 7",
  gear: "M4 7h9M17 7h3M4 17h3M11 17h9M13 4.800v4.400M17 4.800v4.400H13V4.800zM7 14.800h4v4.400H7z",
  keys: "M3.500 6.500h17v11h-17zM7 10h.01M10.500 10h.01M14 10h.01M17 10h.01M8 14h8",
  down: "M12 5v14M5.500 12.500 12 19l6.500-6.500"
} as const

export type IconName = keyof typeof paths

export const Icon = ({ name }: { name: IconName }) => (
  <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
    <path d={paths[name]} />
  </svg>
)

interface ButtonProps {
  readonly icon: IconName
  readonly label: string
  readonly onClick: () => void
  readonly disabled?: boolean
  readonly class?: string
}

/** A button that is a drawing alone. */
export const IconButton = ({ icon, label, onClick, disabled = false, class: name = "" }: ButtonProps) => (
  <button
    type="button"
    class={`round ${name}`}
    aria-label={label}
    title={label}
    disabled={disabled}
    onClick={onClick}
  >
    <Icon name={icon} />
  </button>
)
