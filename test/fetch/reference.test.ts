import { describe, expect, it } from "vitest"

import { isReference, parseReference, showReference } from "../../ts/fetch/fetch.ts"
import { fetchSettings } from "../../ts/fetch/fetch.ts"

const plain = { hub: "hf", kind: undefined, revision: undefined, path: undefined }

describe("references", () => {
  it.each([
    ["hf:owner/name", { ...plain, name: "owner/name" }],
    ["hf:gpt2", { ...plain, name: "gpt2" }],
    ["hf:models/owner/name", { ...plain, kind: "model", name: "owner/name" }],
    ["hf:datasets/owner/name", { ...plain, kind: "dataset", name: "owner/name" }],
    ["hf:owner/name@v1.0", { ...plain, name: "owner/name", revision: "v1.0" }],
    [
      "hf:owner/name@refs/pr/1:a/b.txt",
      { ...plain, name: "owner/name", revision: "refs/pr/1", path: "a/b.txt" }
    ],
    ["hf:owner/name:data/*.parquet", { ...plain, name: "owner/name", path: "data/*.parquet" }],
    ["hf:owner/name:./data/", { ...plain, name: "owner/name", path: "data" }],
    ["hf://owner/name", { ...plain, name: "owner/name" }],
    ["hf://datasets/o/n/a/b.csv", { ...plain, kind: "dataset", name: "o/n", path: "a/b.csv" }],
    [
      "hf://datasets/o/n@refs/convert/parquet/a.csv",
      { ...plain, kind: "dataset", name: "o/n", revision: "refs/convert/parquet", path: "a.csv" }
    ],
    ["modelscope:owner/name", { ...plain, hub: "modelscope", name: "owner/name" }]
  ])("%s", (text, meant) => {
    expect(isReference(text)).toBe(true)
    expect(parseReference(text)).toEqual(meant)
    expect(parseReference(showReference(parseReference(text)))).toMatchObject({
      name: meant.name,
      path: meant.path
    })
  })

  it.each(["hf:", "hf:a/b/c", "hf:../x", "hf:a/..", "hf:a/b@", "hf:datasets/a/b/c", "hf:a--b/c", "hf:a b/c"])(
    "%s is none",
    (text) => {
      expect(() => parseReference(text)).toThrow(expect.objectContaining({ code: "USAGE" }))
    }
  )

  it("paths are none", () => {
    for (const path of ["model", "./hf:x", "/data/hf", "-", "hf"]) expect(isReference(path)).toBe(false)
  })
})

describe("settings", () => {
  it("follow the variables as huggingface_hub does", () => {
    expect(fetchSettings({ HOME: "/h" })).toMatchObject({
      endpoint: "https://huggingface.co",
      cache: "/h/.cache/huggingface/hub",
      tokenFile: "/h/.cache/huggingface/token",
      offline: false,
      token: undefined
    })
    expect(fetchSettings({ HOME: "/h", XDG_CACHE_HOME: "/x" }).cache).toBe("/x/huggingface/hub")
    expect(fetchSettings({ HOME: "/h", HF_HOME: "~/hf" })).toMatchObject({
      cache: "/h/hf/hub",
      tokenFile: "/h/hf/token"
    })
    expect(fetchSettings({ HOME: "/h", HF_HUB_CACHE: "$HOME/c", HF_HOME: "/other" }).cache).toBe("/h/c")
    expect(
      fetchSettings({ HF_ENDPOINT: "https://mirror/", HF_TOKEN: " t ", HF_HUB_OFFLINE: "yes" })
    ).toMatchObject({
      endpoint: "https://mirror",
      token: "t",
      offline: true
    })
    expect(fetchSettings({ HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }).tokenFile).toBeUndefined()
  })
})
