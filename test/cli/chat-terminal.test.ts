// `chatlm chat` on a real terminal, which util-linux's script makes.
import { spawn, spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { stripVTControlCharacters } from "node:util"

import { afterAll, afterEach, describe, expect, it } from "vitest"

const hasScript = spawnSync("script", ["--version"]).status === 0
if (!hasScript) process.stderr.write("skipped: no script of util-linux, which makes a terminal\n")

const program = fileURLToPath(new URL("fixtures/chat.ts", import.meta.url))
const state = mkdtempSync(join(tmpdir(), "chatlm-chat-"))
const history = join(state, "chatlm", "history.jsonl")
afterAll(() => rmSync(state, { recursive: true, force: true }))

const up = "\u001b[A"
const [controlC, controlD, escape] = ["\u0003", "\u0004", "\u001b"]
const prompt = "用户: "

interface Terminal {
  /** All that is on the terminal since the last wait, without colours and movements. */
  readonly until: (wanted: string | RegExp) => Promise<string>
  readonly type: (keys: string) => void
  readonly ended: Promise<number | null>
}

const open: Array<() => void> = []
afterEach(() => {
  for (const close of open.splice(0)) close()
})

const chat = (...flags: ReadonlyArray<string>): Terminal => {
  const command = [process.execPath, program, "chat", "--model", "m", ...flags]
    .map((word) => `'${word}'`)
    .join(" ")
  const child = spawn("script", ["-qefc", command, "/dev/null"], {
    env: { ...process.env, XDG_STATE_HOME: state, TERM: "xterm" },
    stdio: ["pipe", "pipe", "inherit"]
  })
  open.push(() => child.kill())
  let shown = ""
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    shown += text
  })
  const plain = () => stripVTControlCharacters(shown).replaceAll("\r", "")
  const until = async (wanted: string | RegExp) => {
    const isThere = (text: string) => (typeof wanted === "string" ? text.includes(wanted) : wanted.test(text))
    for (let n = 0; n < 1000 && !isThere(plain()); n += 1) await new Promise((done) => setTimeout(done, 20))
    const seen = plain()
    expect(isThere(seen), `${String(wanted)} in ${JSON.stringify(seen)}`).toBe(true)
    shown = ""
    return seen
  }
  return {
    until,
    type: (keys) => child.stdin.write(keys),
    ended: new Promise((done) => child.once("close", done))
  }
}

describe.skipIf(!hasScript)("chat on a terminal", () => {
  it("answers, is stopped by Ctrl+C, and goes on", async () => {
    const terminal = chat()
    await terminal.until(prompt)
    terminal.type("你好\r")
    await terminal.until(/ChatBot: 你说：你好\n用户: $/)
    terminal.type(`${"长".repeat(200)}\r`)
    await terminal.until("你说：长长")
    terminal.type(controlC)
    const rest = await terminal.until(prompt)
    expect([...rest].filter((sign) => sign === "长").length).toBeLessThan(200)
    // At the prompt it forgets what was typed.
    terminal.type(`不要了${controlC}`)
    await terminal.until("(exit or Ctrl+D ends)")
    terminal.type("再见\r")
    await terminal.until(/ChatBot: 你说：再见\n用户: $/)
    terminal.type("exit\r")
    expect(await terminal.ended).toBe(0)
  })

  it("wide signs: what is deleted and put in between stands where it should", async () => {
    const terminal = chat()
    await terminal.until(prompt)
    // 天 away, back over 气, 的 before it.
    terminal.type(`今天气天\u007f${escape}[D的\r`)
    await terminal.until("你说：今天的气\n")
    terminal.type(controlD)
    expect(await terminal.ended).toBe(0)
  })

  it("settings are set, shown, taken back, refused; the last question is asked again", async () => {
    const terminal = chat("--max-new-tokens", "9")
    await terminal.until(prompt)
    terminal.type("种\r")
    await terminal.until("你说：-/9\n")
    terminal.type("/set temperature 0.8\r/retry\r")
    await terminal.until("你说：0.8/9\n")
    terminal.type("/settings\r")
    await terminal.until(/temperature {5}0\.8\nmax-new-tokens {2}9\n/)
    terminal.type("/set temperature hot\r")
    await terminal.until("temperature must be a number above 0, not hot")
    terminal.type("/set warmth 1\r")
    await terminal.until("there is no setting warmth")
    terminal.type("/set max-new-tokens\r种\r")
    await terminal.until("你说：0.8/-\n")
    terminal.type("/set beams 99\r种\r")
    await terminal.until("99 beams are too many; use fewer")
    terminal.type("/nonsense\r")
    await terminal.until("there is no /nonsense")
    terminal.type("//种\r")
    await terminal.until(prompt)
    terminal.type("/set beams\r//种\r")
    await terminal.until("你说：/种\n")
    terminal.type("/help\r")
    await terminal.until("/set NAME VALUE")
    terminal.type(controlD)
    expect(await terminal.ended).toBe(0)
  })

  it("questions of several lines, and what is typed while an answer runs", async () => {
    const terminal = chat()
    await terminal.until(prompt)
    terminal.type("一\\\r")
    await terminal.until("… ")
    terminal.type("二\r")
    await terminal.until("你说：一\n二\n")
    terminal.type('"""\r三\r')
    await terminal.until("… ")
    terminal.type('四\r"""\r')
    await terminal.until("你说：三\n四\n")
    terminal.type(`${escape}[200~五\r六${escape}[201~`)
    await terminal.until("六")
    terminal.type("\r")
    await terminal.until("你说：五\n六\n")
    terminal.type(`${"慢".repeat(40)}\r`)
    await terminal.until("你说：慢")
    terminal.type("快\r")
    const rest = await terminal.until("你说：快\n")
    expect(rest).toMatch(/^慢{30,}\n用户: 快\nChatBot: 你说：快\n/)
    terminal.type(controlD)
    expect(await terminal.ended).toBe(0)
  })

  it("the history outlives the conversation, for the user alone, unless --no-history", async () => {
    const first = chat()
    await first.until(prompt)
    first.type("记住我\r")
    await first.until("你说：记住我\n")
    first.type(controlD)
    await first.ended
    expect(statSync(history).mode & 0o777).toBe(0o600)
    const kept = readFileSync(history, "utf8")
    expect(kept.trimEnd().split("\n").at(-1)).toBe('"记住我"')

    const second = chat()
    await second.until(prompt)
    second.type(`${up}\r`)
    await second.until("你说：记住我\n")
    second.type(controlD)
    await second.ended

    const before = readFileSync(history, "utf8")
    const third = chat("--no-history")
    await third.until(prompt)
    third.type(`${up}没有\r`)
    await third.until("你说：没有\n")
    third.type(controlD)
    await third.ended
    expect(readFileSync(history, "utf8")).toBe(before)
  })

  it("a pipe is answered plainly, and leaves no history", () => {
    rmSync(history, { force: true })
    const ran = spawnSync(process.execPath, [program, "chat", "--model", "m"], {
      input: "你好\n/help\n",
      encoding: "utf8",
      env: { ...process.env, XDG_STATE_HOME: state }
    })
    expect([ran.status, ran.stdout, ran.stderr]).toEqual([0, "你说：你好\n你说：/help\n", ""])
    expect(existsSync(history)).toBe(false)
  })
})
