// Makes docs/chat-light.png and docs/chat-dark.png anew: node_modules/.bin/node test/page/screenshots.ts
import { fileURLToPath } from "node:url"

import { openBrowser } from "../browser.ts"
import { start } from "./support.ts"

const answers = {
  怎样缓解工作压力:
    "缓解工作压力，可以从下面几点做起：\n1. 合理安排时间，把任务按轻重缓急排好，一次只做一件。\n2. 每工作一小时站起来走动几分钟，让眼睛和肩颈休息。\n3. 保证睡眠，睡前少看手机。\n4. 和朋友、家人说说心里话，不要把情绪都压在心里。",
  晚上睡不着怎么办:
    "先固定每天上床和起床的时间，周末也一样。睡前一小时放下手机，把灯光调暗，可以泡脚或听舒缓的音乐。下午以后不喝咖啡和浓茶。如果躺下二十分钟还没有睡意，就起来读几页书，困了再回床上。",
  推荐几道家常菜: "西红柿炒鸡蛋、青椒肉丝、蒜蓉西兰花。",
  写一个求平方和的函数:
    "可以这样写：\n```python\ndef square_sum(numbers):\n    return sum(x * x for x in numbers)\n```\n它把每个数的平方加在一起。"
}

const docs = fileURLToPath(new URL("../../docs/", import.meta.url))
const server = await start({ answers })
const { page, close } = await openBrowser()
try {
  await page.call("Network.setUserAgentOverride", { userAgent: "chatlm", acceptLanguage: "zh-CN,zh" })
  await page.resize(1180, 760)
  await page.call("Page.navigate", { url: server.url })
  const field = `document.querySelector(".composer textarea")`
  await page.until(`${field}?.matches(":focus")`, true)
  const ask = async (question: string) => {
    await page.type(question)
    await page.press("Enter")
    await page.until(`document.querySelectorAll("main [aria-busy=true]").length`, 0)
  }
  for (const [place, question] of ["推荐几道家常菜", "写一个求平方和的函数", "怎样缓解工作压力"].entries()) {
    if (place > 0) await page.press("n", "alt")
    await ask(question)
  }
  await ask("晚上睡不着怎么办")
  for (const value of ["light", "dark"]) {
    await page.call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] })
    await page.screenshot(`${docs}chat-${value}.png`)
  }
} finally {
  await close()
  await server.stop()
}
