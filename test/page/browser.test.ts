// The chat page in a real browser: a conversation from the first key to the next day, and all that can go wrong.
import { createRequire } from "node:module"
import { readFileSync } from "node:fs"

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest"

import { hasBrowser, openBrowser } from "../browser.ts"
import type { Page } from "../browser.ts"
import { start } from "./support.ts"
import type { Started } from "./support.ts"

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8")

const text = (selector: string) => `document.querySelector(${JSON.stringify(selector)})?.textContent`
const count = (selector: string) => `document.querySelectorAll(${JSON.stringify(selector)}).length`
const click = (selector: string) => `document.querySelector(${JSON.stringify(selector)}).click()`
const lastAnswer = text(".theirs:last-child .text")
const focused = `document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent`
const label = (name: string) => `[aria-label="${name}"]`

describe.skipIf(!hasBrowser)("the chat page in a browser", () => {
  let page: Page
  let close: () => Promise<void>
  let server: Started
  const servers: Array<Started> = []

  const open = async (options: Parameters<typeof start>[0] = {}) => {
    server = await start(options)
    servers.push(server)
    // The system may give a port twice, and the browser remembers what it kept for the first.
    await page.call("Storage.clearDataForOrigin", { origin: new URL(server.url).origin, storageTypes: "all" })
    await page.call("Page.navigate", { url: server.url })
    await page.until(count(".composer textarea"), 1)
  }
  const ask = async (question: string) => {
    await page.value(`document.querySelector(".composer textarea").focus()`)
    await page.until(
      focused,
      (await page.value(`document.documentElement.lang`)) === "en" ? "Question" : "问题"
    )
    await page.type(question)
    await page.press("Enter")
  }
  const reload = async () => {
    await page.value("globalThis.old = true; location.reload()")
    await page.until(`globalThis.old !== true && ${count(".composer textarea")} === 1`, true)
  }
  const idle = () => page.until(count(label("停止")), 0)
  const language = (tags: string) =>
    page.call("Network.setUserAgentOverride", { userAgent: "chatlm-test", acceptLanguage: tags })
  const colours = (value: "light" | "dark") =>
    page.call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] })
  /** What axe finds wrong with the page as it stands. */
  const violations = async () => {
    await page.value(`(() => { ${axe} })()`)
    const found = await page.value(
      `axe.run(document, { resultTypes: ["violations", "passes"] }).then(({ passes, violations }) => passes.length < 20 ? ["axe saw too little"] : violations.map(({ id, impact, nodes }) => id + " (" + impact + "): " + nodes.map(({ html }) => html).join(" ")))`
    )
    return found as ReadonlyArray<string>
  }

  beforeAll(async () => {
    ;({ page, close } = await openBrowser())
  })
  beforeEach(async () => {
    await page.call("Page.navigate", { url: "about:blank" })
    await page.until("location.href", "about:blank")
    page.complaints.length = 0
    page.requests.length = 0
    await language("zh-CN,zh")
    await colours("light")
    await page.resize(1200, 800)
  })
  afterEach(async () => {
    // Whatever was done, nothing was asked of anyone else, and no policy was broken.
    const origins = new Set(
      page.requests.filter((url) => !url.startsWith("blob:")).map((url) => new URL(url).origin)
    )
    expect([...origins]).toEqual([new URL(server.url).origin])
    expect(
      page.complaints.filter((complaint) => /policy|refused|trusted|exception/i.test(complaint))
    ).toEqual([])
    for (const each of servers.splice(0)) await each.stop()
  })
  afterAll(() => close())

  it("streams, stops, answers again, and has it all after a reload", async () => {
    await open()
    await ask("你好")
    await page.until(lastAnswer, "你说：你好")
    await idle()
    await ask("慢慢说")
    await page.until(`(${lastAnswer} ?? "").length > 3`, true)
    await page.press("Escape")
    await idle()
    expect(await page.value(lastAnswer)).toMatch(/^字{4,}$/)
    expect(await page.value(text(".theirs:last-child .end"))).toBe("已停止")
    expect(await page.value(text("[role=status]"))).toBe("已停止")
    expect(await page.value(text("h1"))).toBe("你好")

    await reload()
    await page.until(count(".mine"), 2)
    expect(await page.value(lastAnswer)).toMatch(/^字{4,}$/)
    await page.value(click(label("重新回答")))
    await page.until(`${count(".end")} === 0 && (${lastAnswer} ?? "").length > 1`, true)
    await page.value(click(label("停止")))
    await idle()
    expect(server.asked.map(({ prompt }) => prompt)).toEqual(["你好", "慢慢说", "慢慢说"])
    expect(await page.value(count("li.theirs"))).toBe(2)
  })

  it("says where the model had no room for all of it, also after a reload", async () => {
    await open()
    await ask("长长的问题")
    await idle()
    await page.until(text(".theirs:last-child .end"), "内容太长，模型没有读到全部")
    await reload()
    await page.until(text(".theirs:last-child .end"), "内容太长，模型没有读到全部")
  })

  it("text of people and models never becomes HTML; fences become code", async () => {
    await open()
    const nasty = `<img src=x onerror="document.title='broken'"><script>document.title='broken'</script>`
    await ask(`${nasty}\n\`\`\`html\n<b>x</b>\n\`\`\`\n好`)
    await page.until(count(".theirs pre code"), 1)
    await idle()
    expect(await page.value(text(".theirs pre"))).toBe("<b>x</b>")
    expect(await page.value(text(".theirs .text p"))).toBe(`你说：${nasty}`)
    expect(await page.value(count(".text img, .text b, .text script"))).toBe(0)
    expect(await page.value("document.title")).not.toBe("broken")
  })

  it("conversations: begun, renamed, changed, deleted, brought back, saved as a file", async () => {
    await open()
    await ask("第一")
    await page.until(lastAnswer, "你说：第一")
    await idle()
    await page.press("n", "alt")
    await page.until(count(".welcome"), 1)
    await ask("第二")
    await page.until(lastAnswer, "你说：第二")
    await idle()
    const titles = `[...document.querySelectorAll(".list span")].map((each) => each.textContent).join()`
    expect(await page.value(titles)).toBe("第二,第一")

    await page.value(click(label("重命名")))
    await page.until(count(".naming"), 1)
    await page.type("新名字")
    await page.press("Enter")
    await page.until(titles, "新名字,第一")

    await page.press("ArrowDown", "alt")
    await page.until(text("h1"), "第一")
    await page.value(`document.querySelector(".composer textarea").focus()`)
    await page.press("ArrowUp")
    await page.until(focused, "修改")
    await page.type("个问题")
    await page.press("Enter")
    await page.until(lastAnswer, "你说：第一个问题")
    await idle()
    await page.until(focused, "问题")
    expect(await page.value(titles)).toBe("第一个问题,新名字")

    await page.value(`{
      globalThis.saved = undefined
      const made = URL.createObjectURL
      URL.createObjectURL = (blob) => { globalThis.saved = blob; return made(blob) }
      HTMLAnchorElement.prototype.click = function () { globalThis.savedAs = this.download }
    }`)
    await page.value(click(label("导出这个对话")))
    expect(await page.value("savedAs")).toBe("第一个问题.json")
    expect(JSON.parse(String(await page.value("saved.text()")))).toMatchObject({
      title: "第一个问题",
      messages: [
        { role: "user", text: "第一个问题" },
        { role: "assistant", text: "你说：第一个问题" }
      ]
    })

    await page.value(click(label("删除这个对话")))
    await page.until(titles, "新名字")
    await page.value(click(".notice button"))
    await page.until(titles, "第一个问题,新名字")
    await page.value(click(label("删除这个对话")))
    await reload()
    await page.until(titles, "新名字")
  })

  it("settings go into the request and are remembered", async () => {
    await open()
    await page.value(click(".foot .plain"))
    await page.until(count("dialog[open]"), 1)
    await page.value(click("input[value=drawn]"))
    await page.until(count("input[type=range]"), 2)
    const fill = (n: number, value: string) =>
      page.value(`{
        const input = document.querySelectorAll("dialog input[type=range], dialog input[type=number]")[${n}]
        input.value = "${value}"
        input.dispatchEvent(new Event("input", { bubbles: true }))
      }`)
    for (const [n, value] of ["0.6", "0.8", "40", "7"].entries()) await fill(n, value)
    await page.press("Escape")
    await page.until(count("dialog"), 0)
    await reload()
    await page.until(count(".welcome"), 1)
    await ask("你好")
    await page.until(lastAnswer, "你说：你好")
    expect(server.asked[0]?.settings).toMatchObject({
      search: "sample",
      temperature: 0.6,
      topP: 0.8,
      maxNewTokens: 40,
      seed: 7
    })
  })

  it("a key is asked for, a wrong one refused, and the question asked again by itself", async () => {
    await open({ apiKeys: ["secret"] })
    await page.until(count(".key-card"), 1)
    await ask("你好")
    await page.until(text(".problem p"), "服务器需要正确的密钥。")
    for (const [key, said] of [
      ["wrong", "密钥不对，请再试一次。"],
      ["secret", undefined]
    ]) {
      await page.value(`document.querySelector(".key-card input").select()`)
      await page.type(key ?? "")
      await page.press("Enter")
      await page.until(text("#key-asked"), said)
    }
    await page.until(lastAnswer, "你说：你好")
    await idle()
    expect(await page.value("localStorage.getItem('chatlm.key')")).toBe(null)
    await reload()
    await page.until(text(".model"), "ChatLM-mini")
    expect(await page.value(count(".key-card"))).toBe(0)
  })

  it("failures say what happened: too many, a failing model, a lost connection, no server", async () => {
    await open()
    await ask("满了")
    await page.until(text(".problem p"), "现在提问的人太多了。")
    await page.until(`document.querySelector(".problem button").disabled`, false)
    expect(await page.value(text(".problem button"))).toBe("重试")
    await page.value(click(".problem button"))
    await page.until(text(".problem button"), "1 秒后可重试")

    await ask("坏了")
    await page.until(text(".theirs:last-child .problem p"), "模型回答时出错了。")
    expect(await page.value(text(".theirs:last-child .detail"))).toContain("log says why")
    expect(await page.value(lastAnswer)).toBe("字字字")

    await ask("慢")
    await page.until(`(${lastAnswer} ?? "").length > 2`, true)
    server.cut()
    await page.until(text(".theirs:last-child .problem p"), "连接中断了，上面是已经收到的部分。")
    expect(await page.value(lastAnswer)).toMatch(/^字{3,}$/)

    await page.call("Network.emulateNetworkConditions", {
      offline: true,
      latency: 0,
      downloadThroughput: -1,
      uploadThroughput: -1
    })
    await ask("在吗")
    await page.until(text(".theirs:last-child .problem p"), "连不上服务器，请检查网络或服务器是否在运行。")
    await page.call("Network.emulateNetworkConditions", {
      offline: false,
      latency: 0,
      downloadThroughput: -1,
      uploadThroughput: -1
    })
    await page.value(click(".problem button"))
    await page.until(lastAnswer, "你说：在吗")
  })

  it("a browser whose storage is full or refused: said, and answered all the same", async () => {
    await open()
    await page.value(
      `Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError") }`
    )
    await ask("你好")
    await page.until(lastAnswer, "你说：你好")
    await page.until(text(".notice"), "浏览器的存储空间已满，新的对话不会被保存。")
    const { result } = await page.call("Page.addScriptToEvaluateOnNewDocument", {
      source: `for (const name of ["localStorage", "sessionStorage"])
        Object.defineProperty(globalThis, name, { get: () => { throw new DOMException("no", "SecurityError") } })`
    })
    await reload()
    await ask("再见")
    await page.until(lastAnswer, "你说：再见")
    await page.call("Page.removeScriptToEvaluateOnNewDocument", { identifier: result?.identifier })
  })

  it("waits while the model is loading", async () => {
    const loaded = Promise.withResolvers<void>()
    await open({ loaded: loaded.promise })
    await ask("你好")
    await page.until(text(".pending"), "模型正在加载，准备好后会自动回答…")
    loaded.resolve()
    await page.until(lastAnswer, "你说：你好")
  })

  it("by keyboard alone; a word that is being put together is not sent", async () => {
    await open()
    await page.until(focused, "问题")
    await page.call("Input.imeSetComposition", { text: "ni", selectionStart: 2, selectionEnd: 2 })
    await page.call("Input.dispatchKeyEvent", {
      type: "rawKeyDown",
      key: "Process",
      windowsVirtualKeyCode: 229
    })
    await page.type("你好")
    expect(await page.value(count(".mine"))).toBe(0)
    await page.press("Enter", "shift")
    await page.type("再见")
    await page.press("Enter")
    await page.until(lastAnswer, "你说：你好\n再见")
    await idle()
    await page.press("r", "alt")
    await page.until(`${count(".mine")} + ${count(label("停止"))}`, 1)
    expect(server.asked.length).toBe(2)

    const order: Array<unknown> = []
    for (let n = 0; n < 16; n += 1) {
      await page.press("Tab")
      order.push(await page.value(focused))
    }
    // Once round: list, what is open, the field.
    const places = ["新对话", "设置", "重命名", "复制", "重新回答", "问题"].map((name) => order.indexOf(name))
    expect(
      places.every((place) => place >= 0),
      String(order)
    ).toBe(true)
    await page.value(click(".foot .plain"))
    await page.until(count("dialog[open]"), 1)
    for (let n = 0; n < 15; n += 1) {
      await page.press("Tab")
      expect(
        await page.value(
          `document.activeElement === document.body || !!document.activeElement.closest("dialog")`
        )
      ).toBe(true)
    }
    await page.press("Escape")
    await page.until(count("dialog"), 0)
    await page.value("document.activeElement.blur()")
    await page.press("?")
    await page.until(`${count("dialog[open] kbd")} > 5`, true)
    await page.press("Escape")
    await page.until(count("dialog"), 0)
    await page.value("document.activeElement.blur()")
    await page.press("/")
    await page.until(focused, "问题")
  })

  it("axe finds nothing wrong: light, dark, English, dialogs, errors, phone", async () => {
    await open({ apiKeys: ["secret"] })
    await page.until(count(".key-card"), 1)
    expect(await violations()).toEqual([])
    await ask("你好")
    await page.until(count(".problem"), 1)
    expect(await violations()).toEqual([])
    await colours("dark")
    expect(await violations()).toEqual([])
    await page.value(click(".foot .plain"))
    await page.value(click("input[value=drawn]"))
    await page.until(count("input[type=range]"), 2)
    expect(await violations()).toEqual([])
    await page.value(click("input[value=en]"))
    await page.until("document.documentElement.lang", "en")
    await page.value(click("input[value=light]"))
    expect(await violations()).toEqual([])
    await page.press("Escape")
    await page.until(count("dialog"), 0)
    await page.resize(390, 844, { mobile: true, scale: 2 })
    expect(await violations()).toEqual([])
  })

  it("a phone: nothing runs over the side, the list lies over the page and takes the focus", async () => {
    await page.resize(360, 740, { mobile: true, scale: 2 })
    await open()
    await ask(`${"很长的问题".repeat(30)} ${"https".repeat(30)}`)
    await idle()
    expect(await page.value("document.documentElement.scrollWidth")).toBe(360)
    expect(await page.value(`document.querySelector(".sidebar").inert`)).toBe(true)
    await page.value(click(label("打开对话列表")))
    await page.until(focused, "关闭对话列表")
    expect(await page.value(`document.querySelector(".pane").inert`)).toBe(true)
    await page.press("Escape")
    await page.until(`document.querySelector(".pane").inert`, false)
    const small = `[...document.querySelectorAll(".pane button")].filter((each) => { const { width, height } = each.getBoundingClientRect(); return width < 36 || height < 36 }).map((each) => each.outerHTML).join()`
    expect(await page.value(small)).toBe("")
  })

  it("English by the browser, dark by choice", async () => {
    await language("en-GB,en")
    await open()
    expect(await page.value(text(".welcome h2"))).toBe("What would you like to know?")
    expect(await page.value("document.documentElement.lang")).toBe("en")
    const paper = "getComputedStyle(document.body).backgroundColor"
    expect(await page.value(paper)).toBe("rgb(250, 249, 246)")
    await colours("dark")
    expect(await page.value(paper)).toBe("rgb(23, 25, 27)")
    await page.value(click(".foot .plain"))
    await page.value(click("input[value=light]"))
    await page.until(paper, "rgb(250, 249, 246)")
  })
})
