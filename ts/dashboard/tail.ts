/**
 * A file of lines that grows, read from where the last reading ended. A run that goes on from a checkpoint cuts
 * its files back first: that is noticed by the length, and where it has grown again meanwhile by the bytes
 * before the place, which cannot be the same since each line holds its time.
 */
import * as fs from "node:fs/promises"

const markLength = 256
const most = 8 << 20
const lineEnd = 10

/** What a reading found. */
export interface Reading {
  /** What was read before is not there any more; the lines begin anew. */
  readonly cut: boolean
  /** Whole lines alone: one that is being written comes with the next reading. */
  readonly lines: ReadonlyArray<string>
}

export class Tail {
  private readonly file: string
  private offset = 0
  private mark = Buffer.alloc(0)

  constructor(file: string) {
    this.file = file
  }

  /** The lines since the last reading; at most a few megabytes of them at once. */
  async read(): Promise<Reading> {
    let handle: fs.FileHandle
    try {
      handle = await fs.open(this.file)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error
      const cut = this.offset > 0
      this.forget()
      return { cut, lines: [] }
    }
    try {
      const { size } = await handle.stat()
      const cut = !(await this.isWhereItWas(handle, size))
      if (cut) this.forget()
      const chunk = Buffer.alloc(Math.min(most, size - this.offset))
      const { bytesRead } = await handle.read(chunk, 0, chunk.length, this.offset)
      const end = chunk.subarray(0, bytesRead).lastIndexOf(lineEnd) + 1
      if (end === 0) return { cut, lines: [] }
      const whole = chunk.subarray(0, end)
      this.offset += end
      this.mark = Buffer.from(Buffer.concat([this.mark, whole]).subarray(-markLength))
      return { cut, lines: whole.toString("utf8").split("\n").slice(0, -1) }
    } finally {
      await handle.close()
    }
  }

  private forget() {
    this.offset = 0
    this.mark = Buffer.alloc(0)
  }

  private async isWhereItWas(handle: fs.FileHandle, size: number): Promise<boolean> {
    if (size < this.offset) return false
    const there = Buffer.alloc(this.mark.length)
    await handle.read(there, 0, there.length, this.offset - there.length)
    return there.equals(this.mark)
  }
}
