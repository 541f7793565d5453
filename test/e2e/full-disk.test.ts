/** A disk without room while a training saves: it stops, what is there stays whole, and with room it goes on. */
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statfsSync, writeFileSync } from "node:fs"
import { setTimeout } from "node:timers/promises"

import { afterAll, beforeAll, describe, expect, it } from "vitest"

import { chatlm, chatlmUnder, folder, ok, rows, startChatlm, tinyModel, writeJsonl } from "./support.ts"

const dir = folder()
const small = dir.at("small")
mkdirSync(small)
const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=24m", "tmpfs", small]).status === 0
if (!mounted) process.stderr.write("skipped: a small disk that fills up (this user may not mount a tmpfs)\n")
afterAll(() => {
  if (mounted) spawnSync("umount", [small])
  dir.remove()
})

const pretrain = (out: string, more: Record<string, unknown> = {}) => [
  "pretrain",
  ...Object.entries({
    model: tinyModel,
    tokenizer: dir.at("tokenizer"),
    train: dir.at("train.jsonl"),
    out,
    batchSize: 8,
    maxLength: 48,
    maxSteps: 60,
    // Of no other length of the run.
    schedule: "constant",
    saveEvery: 2,
    keep: 2,
    logEvery: 1,
    samples: 0,
    ...more
  }).flatMap(([key, value]) => ["--set", `${key}=${JSON.stringify(value)}`])
]

const steps = (out: string) =>
  existsSync(`${out}/checkpoints`) ? readdirSync(`${out}/checkpoints`).toSorted() : []
const weights = (out: string) => readFileSync(`${out}/last/model.safetensors`).toString("base64")

/** Stopped for want of room, with whole checkpoints and nothing half-written. */
const stoppedFull = (ran: { readonly status: number; readonly error: string }, out: string) => {
  expect(ran.status, ran.error).toBe(3)
  expect(ran.error).toContain("error[DISK_FULL]")
  const there = steps(out)
  expect(there.length).toBeGreaterThan(0)
  for (const step of there) {
    expect(step).toMatch(/^step-\d+$/)
    expect(existsSync(`${out}/checkpoints/${step}/manifest.json`)).toBe(true)
  }
}

beforeAll(async () => {
  writeJsonl(dir.at("train.jsonl"), rows(195))
  const tokenizer = ["--out", dir.at("tokenizer"), "--vocab-size", "300"]
  await ok("tokenizer", "train", "--in", dir.at("train.jsonl"), ...tokenizer)
  await ok(...pretrain(dir.at("whole")))
}, 120_000)

describe("a full disk", () => {
  it("in the middle of a file: nothing half-written counts, and the same command goes on", async () => {
    const out = dir.at("limited")
    await ok(...pretrain(out, { maxSteps: 7 }))
    const before = steps(out)
    // No file may be longer than half of the weights.
    const kilobytes = Math.floor(
      readFileSync(`${out}/checkpoints/${before.at(-1)}/weights.safetensors`).length / 2048
    )
    const ran = await chatlmUnder(`ulimit -f ${kilobytes};`, ...pretrain(out))
    stoppedFull(ran, out)
    expect(steps(out)).toEqual(before)
    await ok(...pretrain(out))
    expect(weights(out) === weights(dir.at("whole"))).toBe(true)
  }, 120_000)

  it.skipIf(!mounted)(
    "that fills up while a training runs: it stops, and goes on once there is room",
    async () => {
      const out = `${small}/run`
      const running = startChatlm(...pretrain(out, { maxSteps: 100_000 }))
      while (steps(out).filter((name) => name.startsWith("step-")).length < 2) {
        expect(running.child.exitCode).toBe(null)
        await setTimeout(2)
      }
      const { bavail, bsize } = statfsSync(small)
      // As somebody else's files would, a piece at a time until nothing fits.
      for (let left = bavail * bsize; left > 0; left -= 1 << 20) {
        try {
          writeFileSync(`${small}/others`, Buffer.alloc(1 << 20), { flag: "a" })
        } catch {
          break
        }
      }
      stoppedFull(await running.ran, out)
      const before = steps(out)
      // Without room a start is refused before it trains.
      const refused = await chatlm(...pretrain(out, { maxSteps: 100_000 }))
      expect(refused.status, refused.error).toBe(3)
      expect(steps(out)).toEqual(before)
      rmSync(`${small}/others`)
      const last = Number(before.at(-1)?.slice(5)) + 10
      await ok(...pretrain(out, { maxSteps: last }))
      expect(steps(out).at(-1)).toBe(`step-${String(last).padStart(8, "0")}`)
    },
    120_000
  )
})
