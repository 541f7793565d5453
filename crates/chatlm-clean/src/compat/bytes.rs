//! Bytes to text, a line at a time, with bad ones ignored, as Python's codecs do it: after a byte that begins nothing
//! the next one is tried.
//!
//! gb2312 here is what Python calls so: EUC-CN without what GBK added to it. Characters such as `—`
//! written in GB18030 therefore shift into others, which is one of the reference program's bugs.

use std::sync::OnceLock;

use chatlm_job::{Code, Error, Result};
use encoding_rs::{DecoderResult, Encoding, GB18030, GBK};

/// Whose table is used.
#[derive(Debug, Clone, Copy)]
pub(super) enum Charset {
    Gb2312,
    Gb18030,
    Other(&'static Encoding),
}

/// The encoding of this label, if it is one that the files can be cut into lines in.
pub(super) fn charset(label: &str) -> Result<Charset> {
    if label == "gb2312" {
        return Ok(Charset::Gb2312);
    }
    match Encoding::for_label(label.as_bytes()) {
        Some(encoding) if encoding == GBK || encoding == GB18030 => Ok(Charset::Gb18030),
        Some(encoding) if encoding.is_ascii_compatible() => Ok(Charset::Other(encoding)),
        _ => Err(Error::new(
            Code::Usage,
            format!("the reference program's way does not read {label:?}"),
            "give --encoding such as utf-8 or gb18030, or leave out --compat",
        )),
    }
}

/// Text, and how many bytes that are none were passed over.
pub(super) fn decode(bytes: &[u8], charset: Charset) -> (String, u64) {
    match charset {
        Charset::Gb2312 => gb2312(bytes),
        Charset::Gb18030 => {
            let kept = without_euro(bytes);
            let (text, ignored) = ignoring(&kept, GB18030);
            (text, ignored + (bytes.len() - kept.len()) as u64)
        }
        Charset::Other(encoding) => ignoring(bytes, encoding),
    }
}

fn ignoring(mut bytes: &[u8], encoding: &'static Encoding) -> (String, u64) {
    let mut text = String::with_capacity(bytes.len() * 3 / 2 + 16);
    let mut ignored = 0;
    loop {
        let mut decoder = encoding.new_decoder_without_bom_handling();
        text.reserve(
            decoder
                .max_utf8_buffer_length_without_replacement(bytes.len())
                .unwrap_or(0),
        );
        let (result, read) = decoder.decode_to_string_without_replacement(bytes, &mut text, true);
        match result {
            DecoderResult::InputEmpty => return (text, ignored),
            DecoderResult::Malformed(bad, after) => {
                bytes = &bytes[read - usize::from(bad) - usize::from(after) + 1..];
                ignored += 1;
            }
            DecoderResult::OutputFull => bytes = &bytes[read..],
        }
    }
}

/// Web browsers read a byte 0x80 that begins a character as a euro sign; to Python it is a bad one.
fn without_euro(bytes: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let size = match bytes[at..] {
            [0x80, ..] => {
                at += 1;
                continue;
            }
            [0x81..=0xfe, 0x30..=0x39, 0x81..=0xfe, 0x30..=0x39, ..] => 4,
            [0x81..=0xfe, 0x40..=0x7e | 0x80..=0xfe, ..] => 2,
            _ => 1,
        };
        kept.extend_from_slice(&bytes[at..at + size]);
        at += size;
    }
    kept
}

fn gb2312(bytes: &[u8]) -> (String, u64) {
    let table = table();
    let mut text = String::with_capacity(bytes.len() * 3 / 2);
    let (mut at, mut ignored) = (0, 0);
    while at < bytes.len() {
        let lead = bytes[at];
        let pair = bytes
            .get(at + 1)
            .and_then(|&trail| table[place(lead, trail)?]);
        match pair {
            _ if lead < 0x80 => text.push(char::from(lead)),
            Some(c) => {
                text.push(c);
                at += 1;
            }
            None => ignored += 1,
        }
        at += 1;
    }
    (text, ignored)
}

/// Where a pair of bytes stands in the table of 94 × 94.
fn place(lead: u8, trail: u8) -> Option<usize> {
    let inside = (0xa1..=0xfe).contains(&lead) && (0xa1..=0xfe).contains(&trail);
    inside.then(|| usize::from(lead - 0xa1) * 94 + usize::from(trail - 0xa1))
}

fn table() -> &'static [Option<char>] {
    static TABLE: OnceLock<Vec<Option<char>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let pairs = (0xa1..=0xfe).flat_map(|lead| (0xa1..=0xfe).map(move |trail| (lead, trail)));
        pairs
            .map(|(lead, trail)| assigned(lead, trail).then(|| character(lead, trail)))
            .collect()
    })
}

/// The two characters that Python reads otherwise than GBK.
fn character(lead: u8, trail: u8) -> char {
    match (lead, trail) {
        (0xa1, 0xa4) => '\u{30fb}',
        (0xa1, 0xaa) => '\u{2015}',
        _ => GBK
            .decode_without_bom_handling(&[lead, trail])
            .0
            .chars()
            .next()
            .unwrap_or(char::REPLACEMENT_CHARACTER),
    }
}

/// GB 2312-80: which places hold a character.
fn assigned(lead: u8, trail: u8) -> bool {
    match lead {
        0xa2 => matches!(trail, 0xb1..=0xe2 | 0xe5..=0xee | 0xf1..=0xfc),
        0xa4 => trail <= 0xf3,
        0xa5 => trail <= 0xf6,
        0xa6 => matches!(trail, 0xa1..=0xb8 | 0xc1..=0xd8),
        0xa7 => matches!(trail, 0xa1..=0xc1 | 0xd1..=0xf1),
        0xa8 => matches!(trail, 0xa1..=0xba | 0xc5..=0xe9),
        0xa9 => matches!(trail, 0xa4..=0xef),
        0xd7 => trail <= 0xf9,
        0xa1 | 0xa3 | 0xb0..=0xf7 => true,
        _ => false,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn bad_bytes_are_skipped_one_by_one() {
        let read = |bytes: &[u8], label: &str| decode(bytes, charset(label).unwrap());
        assert_eq!(read(b"8\xa8D\xa8D9HZ", "gb2312"), ("8DD9HZ".into(), 2));
        assert_eq!(read("a\u{4e2d}".as_bytes(), "utf-8"), ("a中".into(), 0));
        assert_eq!(read(b"a\xff\xd6\xd0\xd6", "gb18030"), ("a中".into(), 2));
        let euro = read(b"\xd6\xd0\x80a\x81\x80", "gb18030");
        assert_eq!(euro, ("中a亐".into(), 1));
        assert_eq!(read(b"\xd6\xd0\xd6", "gb2312"), ("中".into(), 1));
        assert_eq!(read(b"\xa1\xaa", "gb2312"), ("\u{2015}".into(), 0));
        assert!(charset("utf-16").is_err() && charset("klingon").is_err());
    }

    #[test]
    fn the_table_has_as_many_characters_as_the_standard() {
        assert_eq!(table().iter().flatten().count(), 7445);
        assert!(!table().contains(&Some(char::REPLACEMENT_CHARACTER)));
    }
}
