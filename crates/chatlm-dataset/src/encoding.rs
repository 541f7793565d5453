//! Text of any encoding as UTF-8: finding out which it is, and decoding as a stream.
//!
//! Bytes that are not text in the encoding become U+FFFD and are counted; they are not fatal, since
//! real GB18030 collections have a few of them in a million rows.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use chatlm_job::{Code, Error, Result};
use encoding_rs::{
    BIG5, Decoder, DecoderResult, EUC_JP, EUC_KR, Encoding, GB18030, GBK, SHIFT_JIS, UTF_8,
    UTF_16BE, UTF_16LE,
};

const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

/// The encoding named by `label`, such as `gb18030`, `utf-16`, `big5`.
pub(crate) fn named(label: &str, head: &[u8]) -> Result<&'static Encoding> {
    let label = label.trim();
    let encoding = Encoding::for_label(label.as_bytes()).ok_or_else(|| {
        Error::new(
            Code::Usage,
            format!("there is no encoding called {label:?}"),
            "use utf-8, gb18030, utf-16le, utf-16be, big5 or another name of the WHATWG list",
        )
    })?;
    // "utf-16" alone leaves the byte order to the mark at the start.
    match Encoding::for_bom(head) {
        Some((marked, _)) if label.eq_ignore_ascii_case("utf-16") => Ok(marked),
        _ => Ok(encoding),
    }
}

/// Tells the encoding from the first bytes of a file.
pub(crate) fn detect(head: &[u8]) -> &'static Encoding {
    if let Some((encoding, _)) = Encoding::for_bom(head) {
        return encoding;
    }
    let bad = malformed(UTF_8, head);
    // What is whole UTF-8 has zeros of its own, unless every second byte is one.
    let some = head.len().div_ceil(if bad == 0 { 4 } else { 64 });
    if let Some(encoding) = zeros(head, some.max(1)) {
        return encoding;
    }
    let high = head.iter().filter(|byte| **byte >= 0x80).count();
    // GB18030 text read as UTF-8 breaks at nearly every character, damaged UTF-8 at a few.
    if bad * 20 <= high {
        return UTF_8;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(head, true);
    let guess = detector.guess(None, Utf8Detection::Deny);
    let other = [BIG5, EUC_KR, EUC_JP, SHIFT_JIS].contains(&guess);
    // A short text proves little: the Chinese default wins unless another guess has much to stand on.
    if other && guess != GBK && high > 400 && malformed(guess, head) == 0 {
        guess
    } else {
        GB18030
    }
}

/// UTF-16 without a mark shows by zero bytes at every second place.
fn zeros(head: &[u8], some: usize) -> Option<&'static Encoding> {
    let count = |from: usize| {
        head.iter()
            .skip(from)
            .step_by(2)
            .filter(|byte| **byte == 0)
            .count()
    };
    let (even, odd) = (count(0), count(1));
    match (even, odd) {
        (e, o) if o >= some && e * 8 <= o => Some(UTF_16LE),
        (e, o) if e >= some && o * 8 <= e => Some(UTF_16BE),
        _ => None,
    }
}

fn malformed(encoding: &'static Encoding, bytes: &[u8]) -> usize {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut out = [0u8; 4096];
    let (mut from, mut bad) = (0, 0);
    loop {
        let (result, read, _) =
            decoder.decode_to_utf8_without_replacement(&bytes[from..], &mut out, false);
        from += read;
        match result {
            DecoderResult::InputEmpty => return bad,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => bad += 1,
        }
    }
}

/// Decodes the first bytes of a file, for telling its format.
pub(crate) fn preview(encoding: &'static Encoding, head: &[u8]) -> String {
    let mut decoder = encoding.new_decoder_with_bom_removal();
    let room = decoder
        .max_utf8_buffer_length(head.len())
        .unwrap_or(head.len() * 3 + 16);
    let mut text = String::with_capacity(room);
    let _ = decoder.decode_to_string(head, &mut text, false);
    text
}

/// Reads UTF-8 out of text in another encoding, a byte order mark removed.
pub(crate) struct Decoded<R> {
    inner: R,
    decoder: Decoder,
    input: Box<[u8]>,
    unread: std::ops::Range<usize>,
    output: Vec<u8>,
    given: usize,
    ended: bool,
    replaced: Arc<AtomicU64>,
}

impl<R: Read> Decoded<R> {
    const PIECE: usize = 64 * 1024;

    pub(crate) fn new(inner: R, encoding: &'static Encoding, replaced: Arc<AtomicU64>) -> Self {
        Self {
            inner,
            decoder: encoding.new_decoder_with_bom_removal(),
            input: vec![0; Self::PIECE].into_boxed_slice(),
            unread: 0..0,
            output: vec![0; Self::PIECE * 3],
            given: Self::PIECE * 3,
            ended: false,
            replaced,
        }
    }

    /// Fills `output` with the next decoded bytes; leaves it empty at the end.
    fn refill(&mut self) -> io::Result<()> {
        self.output.resize(Self::PIECE * 3, 0);
        self.given = 0;
        let mut written = 0;
        while written == 0 {
            if self.unread.is_empty() && !self.ended {
                let read = self.inner.read(&mut self.input)?;
                self.unread = 0..read;
                self.ended = read == 0;
            }
            let room = self.output.len() - REPLACEMENT.len();
            let (result, read, wrote) = self.decoder.decode_to_utf8_without_replacement(
                &self.input[self.unread.clone()],
                &mut self.output[..room],
                self.ended,
            );
            self.unread.start += read;
            written = wrote;
            match result {
                DecoderResult::Malformed(..) => {
                    self.output[written..written + REPLACEMENT.len()].copy_from_slice(REPLACEMENT);
                    written += REPLACEMENT.len();
                    self.replaced.fetch_add(1, Ordering::Relaxed);
                }
                DecoderResult::InputEmpty if self.ended => break,
                DecoderResult::InputEmpty | DecoderResult::OutputFull => {}
            }
        }
        self.output.truncate(written);
        Ok(())
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given >= self.output.len() || self.output.is_empty() {
            if self.ended && self.unread.is_empty() && self.output.is_empty() {
                return Ok(0);
            }
            self.refill()?;
        }
        let size = into.len().min(self.output.len() - self.given);
        into[..size].copy_from_slice(&self.output[self.given..self.given + size]);
        self.given += size;
        Ok(size)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8], encoding: &'static Encoding) -> (String, u64) {
        let replaced = Arc::new(AtomicU64::new(0));
        let mut text = String::new();
        Decoded::new(bytes, encoding, replaced.clone())
            .read_to_string(&mut text)
            .unwrap();
        (text, replaced.load(Ordering::Relaxed))
    }

    fn utf16(text: &str, little: bool) -> Vec<u8> {
        text.encode_utf16()
            .flat_map(|unit| {
                if little {
                    unit.to_le_bytes()
                } else {
                    unit.to_be_bytes()
                }
            })
            .collect()
    }

    #[test]
    fn encodings_are_told_apart() {
        let text = "{\"prompt\": \"高血压患者能吃党参吗？\"}\n".repeat(3);
        assert_eq!(detect(text.as_bytes()), UTF_8);
        assert_eq!(detect(&GB18030.encode(&text).0), GB18030);
        assert_eq!(detect(&GB18030.encode("你好").0), GB18030);
        assert_eq!(detect(&utf16(&text, true)), UTF_16LE);
        assert_eq!(detect(&utf16(&text, false)), UTF_16BE);
        assert_eq!(detect(b"plain ascii"), UTF_8);
        assert_eq!(detect(b""), UTF_8);
        let mut damaged = text.into_bytes();
        damaged[15] = 0xff;
        assert_eq!(detect(&damaged), UTF_8);
    }

    #[test]
    fn broken_bytes_are_replaced_and_counted() {
        let (text, replaced) = decode(b"ab\xffc", UTF_8);
        assert_eq!((text.as_str(), replaced), ("ab\u{FFFD}c", 1));
        let (text, replaced) = decode(b"ab\xe4\xbd", UTF_8);
        assert_eq!((text.as_str(), replaced), ("ab\u{FFFD}", 1));
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text in "[\\PC\n]{0,400}", mark: bool) {
            let text = text.trim_start_matches('\u{FEFF}');
            let mut bytes = if mark { b"\xEF\xBB\xBF".to_vec() } else { Vec::new() };
            bytes.extend(text.as_bytes());
            prop_assert_eq!(decode(&bytes, UTF_8).0, text);
            prop_assert_eq!(decode(&utf16(text, true), UTF_16LE).0, text);
        }
    }
}
