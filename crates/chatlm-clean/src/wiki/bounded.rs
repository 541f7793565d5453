//! A reader for XML that never lets a text or a tag grow without end: quick-xml gathers each of them whole, so a small
//! packed file could otherwise stand for any amount of memory.

use std::io::{Error, Read, Result};

/// Bytes without `<`, or without `>`: four of the longest articles.
const MOST: usize = 4 * super::LONGEST;

pub(super) struct Bounded<R> {
    inner: R,
    /// Bytes since the last `<` and the last `>`.
    since: [usize; 2],
}

impl<R> Bounded<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            since: [0; 2],
        }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.inner.read(buffer)?;
        for (since, mark) in self.since.iter_mut().zip(*b"<>") {
            *since = match buffer[..read].iter().rposition(|&byte| byte == mark) {
                Some(place) => read - 1 - place,
                None => *since + read,
            };
            if *since > MOST {
                let what = format!("more than {} MiB stand there without a tag", MOST >> 20);
                return Err(Error::other(what));
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{Cursor, copy, repeat, sink};

    use super::*;

    fn read(start: &str, byte: u8, count: usize, end: &str) -> Result<u64> {
        let middle = repeat(byte).take(count as u64);
        let (start, end) = (start.to_owned(), end.to_owned());
        let source = Cursor::new(start).chain(middle).chain(Cursor::new(end));
        copy(&mut Bounded::new(source), &mut sink())
    }

    #[test]
    fn texts_and_tags_without_end_are_an_error_and_long_ones_are_not() {
        for (start, byte) in [("<text>", b'a'), ("<text>", b'>'), ("<text a='", b'<')] {
            assert!(read(start, byte, MOST + 1_000_000, "").is_err(), "{start}");
            let long = read(start, byte, super::super::LONGEST, "</text>");
            assert!(long.unwrap() > 16 << 20);
        }
    }
}
