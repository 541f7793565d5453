/** The known word that is closest to a mistyped one (edit distance, case set aside). */

const distance = (a: string, b: string): number => {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i]
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}

const plain = (word: string) => word.toLowerCase().replaceAll(/[-_]/g, "")

export const nearest = (word: string, known: Iterable<string>): string | undefined => {
  let best: { word: string; distance: number } | undefined
  for (const candidate of known) {
    const d = distance(plain(word), plain(candidate))
    if (best === undefined || d < best.distance) best = { word: candidate, distance: d }
  }
  return best?.word
}
