/** Which files of a repository are meant: all, those of a path or glob, or those that a purpose needs. */

/** Endings that the readers of rows know. */
const dataEndings = /\.(parquet|jsonl|json|csv|tsv|txt)$/i

/** What a model folder is read from: weights in one format, configurations, the tokenizer's files. */
const modelFile =
  /^(?:[^/]*\.safetensors|model\.safetensors\.index\.json|(?:generation_)?config\.json|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|adapter_config\.json|spiece\.model|tokenizer\.model)$/

const tokenizerFile =
  /^(?:tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|spiece\.model|tokenizer\.model)$/

/** What the files are for; `everything` takes them all. */
export type Purpose = "everything" | "model" | "tokenizer" | "data"

const isHidden = (path: string) => path.split("/").some((part) => part.startsWith("."))

const needed: Readonly<Record<Purpose, (path: string) => boolean>> = {
  everything: () => true,
  model: (path) => modelFile.test(path),
  tokenizer: (path) => tokenizerFile.test(path),
  // Cards and configurations beside the data are no rows.
  data: (path) =>
    dataEndings.test(path) && !isHidden(path) && !/(^|\/)(README|LICENSE|dataset_infos?)\b/i.test(path)
}

const special = /[*?[]/

/** `*` and `?` stay within a name, `**` crosses folders. */
const globPattern = (glob: string): RegExp => {
  const body = glob.replaceAll(/\*\*\/|\*\*|\*|\?|\[[^\]]+\]|[\\^$.|+(){}\]]/g, (part) => {
    if (part === "**/") return "(?:.*/)?"
    if (part === "**") return ".*"
    if (part === "*") return "[^/]*"
    if (part === "?") return "[^/]"
    return part.startsWith("[") && part.length > 1 ? part : `\\${part}`
  })
  return new RegExp(`^${body}$`)
}

/** The deepest folder that holds everything a path can mean; empty for the whole repository. */
export const folderOf = (path: string | undefined): string => {
  if (path === undefined) return ""
  const parts = path.split("/")
  const first = parts.findIndex((part) => special.test(part))
  return parts.slice(0, first === -1 ? parts.length - 1 : first).join("/")
}

/** Whether a path names one file or folder and no pattern. */
export const isLiteral = (path: string | undefined): path is string =>
  path !== undefined && !special.test(path)

/** Whether a file belongs to what was asked for. */
export const wants = (path: string | undefined, purpose: Purpose): ((file: string) => boolean) => {
  if (path === undefined) return needed[purpose]
  if (!special.test(path)) {
    // A file that is named is wanted whatever its name; of a folder, what the purpose needs.
    return (file) =>
      file === path || (file.startsWith(`${path}/`) && needed[purpose](file.slice(path.length + 1)))
  }
  const pattern = globPattern(path)
  return (file) => pattern.test(file)
}
