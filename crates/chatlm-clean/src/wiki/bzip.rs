//! bz2 as Wikipedia publishes it: many streams in one file, decompressed on all threads; a single
//! stream as it comes.

use std::collections::VecDeque;
use std::io::{self, Cursor, Read};

use bzip2::read::{BzDecoder, MultiBzDecoder};
use rayon::prelude::*;

/// Compressed bytes without a new stream, from which on a file is not taken apart.
const SINGLE: usize = 16 << 20;
const PIECE: usize = 1 << 20;
/// A stream that grows beyond this is decompressed as it is read: it may be a bomb.
const LARGE: u64 = 64 << 20;

/// The start of a stream with at least one block: `BZh`, the level, then the block's mark.
const MARK: &[u8] = &[0x31, 0x41, 0x59, 0x26, 0x53, 0x59];

/// What waits to be read, in order.
enum Part {
    Bytes(Cursor<Vec<u8>>),
    Stream(Box<dyn Read + Send>),
}

/// Reads a file of bz2 streams.
pub(super) struct Streams<R: Read + Send + 'static> {
    source: Option<R>,
    /// Compressed bytes that were not handed to a thread yet.
    waiting: Vec<u8>,
    /// Up to here `waiting` holds no start of a stream but its first.
    looked: usize,
    parts: VecDeque<io::Result<Part>>,
}

impl<R: Read + Send + 'static> Streams<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source: Some(source),
            waiting: Vec::new(),
            looked: 1,
            parts: VecDeque::new(),
        }
    }

    /// The next whole stream in `waiting`.
    fn whole(&mut self) -> Option<Vec<u8>> {
        let from = self.looked.max(1);
        let starts = self.waiting.get(from..)?;
        let found = starts
            .windows(MARK.len() + 4)
            .position(|w| w.starts_with(b"BZh") && &w[4..] == MARK);
        let Some(at) = found else {
            self.looked = self.waiting.len().saturating_sub(MARK.len() + 4).max(1);
            return None;
        };
        let rest = self.waiting.split_off(from + at);
        self.looked = 1;
        Some(std::mem::replace(&mut self.waiting, rest))
    }

    fn fill(&mut self) -> io::Result<()> {
        let most = 2 * rayon::current_num_threads().max(1);
        let (mut streams, mut ended) = (Vec::new(), false);
        while streams.len() < most && self.waiting.len() <= SINGLE {
            let before = self.waiting.len();
            let Some(source) = &mut self.source else {
                break;
            };
            source
                .by_ref()
                .take(PIECE as u64)
                .read_to_end(&mut self.waiting)?;
            ended = self.waiting.len() == before;
            if ended {
                break;
            }
            while let Some(stream) = self.whole() {
                streams.push(stream);
            }
        }
        self.hand_on(streams, ended);
        Ok(())
    }

    /// Decompresses whole streams on all threads; the rest as it is read where there is no more to wait for.
    fn hand_on(&mut self, mut streams: Vec<Vec<u8>>, ended: bool) {
        if ended && !self.waiting.is_empty() {
            streams.push(std::mem::take(&mut self.waiting));
        }
        let parts: Vec<io::Result<Part>> = streams.into_par_iter().map(decompress).collect();
        self.parts.extend(parts);
        if ended {
            self.source = None;
        } else if self.waiting.len() > SINGLE
            && let Some(source) = self.source.take()
        {
            let waiting = Cursor::new(std::mem::take(&mut self.waiting));
            let rest = MultiBzDecoder::new(waiting.chain(source));
            self.parts.push_back(Ok(Part::Stream(Box::new(rest))));
        }
    }
}

fn decompress(stream: Vec<u8>) -> io::Result<Part> {
    let mut bytes = Vec::new();
    MultiBzDecoder::new(stream.as_slice())
        .take(LARGE)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 == LARGE {
        return Ok(Part::Stream(Box::new(BzDecoder::new(Cursor::new(stream)))));
    }
    Ok(Part::Bytes(Cursor::new(bytes)))
}

impl<R: Read + Send + 'static> Read for Streams<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.parts.front_mut() {
                Some(Ok(Part::Bytes(bytes))) => {
                    let read = bytes.read(into)?;
                    if read > 0 || into.is_empty() {
                        return Ok(read);
                    }
                }
                Some(Ok(Part::Stream(stream))) => {
                    let read = stream.read(into)?;
                    if read > 0 || into.is_empty() {
                        return Ok(read);
                    }
                }
                Some(Err(_)) => {
                    if let Some(Err(error)) = self.parts.pop_front() {
                        self.parts.clear();
                        self.source = None;
                        return Err(error);
                    }
                }
                None => {
                    if self.source.is_none() {
                        return Ok(0);
                    }
                    self.fill()?;
                    continue;
                }
            }
            self.parts.pop_front();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use bzip2::Compression;
    use bzip2::read::BzEncoder;

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        BzEncoder::new(text, Compression::fast())
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length as u64)
            .map(|n| (chatlm_job::mix(7, n / 3) % 251) as u8)
            .collect()
    }

    fn read(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Streams::new(Cursor::new(bytes)).read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn many_streams_and_one_are_read_whole() {
        let whole = text(3_000_000);
        let many: Vec<u8> = whole.chunks(70_000).flat_map(packed).collect();
        assert_eq!(read(many).unwrap(), whole);
        assert_eq!(read(packed(&whole)).unwrap(), whole);
        assert_eq!(read(packed(b"")).unwrap(), b"");
    }

    #[test]
    fn a_long_stream_is_read_as_it_comes() {
        let whole: Vec<u8> = (0..18u64 << 20)
            .map(|n| chatlm_job::mix(n, 1) as u8)
            .collect();
        let mut bytes = packed(&whole);
        assert!(bytes.len() > SINGLE);
        bytes.extend(packed(b"tail"));
        assert_eq!(read(bytes).unwrap(), [whole.as_slice(), b"tail"].concat());
    }

    #[test]
    fn what_was_cut_short_or_damaged_is_an_error() {
        let many: Vec<u8> = text(400_000).chunks(70_000).flat_map(packed).collect();
        assert!(read(many[..many.len() - 100].to_vec()).is_err());
        let mut damaged = many.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x55;
        assert!(read(damaged).is_err());
        assert!(read(b"not bz2 at all".to_vec()).is_err());
    }
}
