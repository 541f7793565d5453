//! Files packed by gzip or zstd, read as what is in them. The first bytes tell, not the name.
//!
//! Members of gzip and frames of zstd that follow each other are one text. What ends early or is broken is
//! an error of kind `InvalidData` around [`Broken`], which [`read_error`] tells by the file's name.

use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use chatlm_job::{Code, Error};
use flate2::bufread::GzDecoder;

const PARQUET: &[u8] = b"PAR1";

/// Bytes that tell a packing.
const HEAD: u64 = 512;

/// Endings that a packing adds to a file's name.
const ENDINGS: [&str; 3] = ["gz", "zst", "zstd"];

type Source = Box<dyn Read + Send>;

/// The path without the ending of a packing: `a.jsonl` of `a.jsonl.gz`.
pub(crate) fn within(path: &Path) -> &Path {
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    let packed = ENDINGS.iter().any(|known| ending == *known);
    match path.file_stem() {
        Some(stem) if packed => Path::new(stem),
        _ => path,
    }
}

/// What a packed file says of itself when it cannot be read.
#[derive(Debug)]
struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Broken(what.into()))
}

/// An error of reading a text file, packed or not.
pub(crate) fn read_error(error: &io::Error, path: &Path) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(Broken(what)) = inner else {
        return Error::io(error, "read", path);
    };
    let path = path.display().to_string();
    Error::new(
        Code::InputFormat,
        format!("{path} {what}"),
        "fetch or make the file again; text is read plain, or packed by gzip (.gz) or zstd (.zst)",
    )
    .with("file", path)
}

/// The bytes in `source`, unpacked where it is packed; whether it was.
pub(crate) fn unpack(mut source: Source, path: &Path) -> io::Result<(Source, bool)> {
    let mut head = Vec::new();
    source.by_ref().take(HEAD).read_to_end(&mut head)?;
    if let Some(other) = unread(&head).filter(|_| !head.starts_with(PARQUET)) {
        return Err(other);
    }
    let zstd = is_zstd(&head);
    let gzip = head.starts_with(&[0x1f, 0x8b]);
    // Programs that fetch files may unpack them and leave their names.
    let text = !head.contains(&0) && std::str::from_utf8(&head[..head.len() - cut(&head)]).is_ok();
    if !zstd && !gzip && !text && within(path) != path {
        return Err(broken("is packed by its name and not by its content"));
    }
    let whole = Cursor::new(head).chain(source);
    Ok(if gzip {
        (Box::new(Unpacked::new(Members::new(whole), "gzip")), true)
    } else if zstd {
        let frames = zstd::Decoder::new(whole)?;
        (Box::new(Unpacked::new(frames, "zstd")), true)
    } else {
        (Box::new(whole), false)
    })
}

/// The error about first bytes that tell something else than text, parquet among them: it needs reading
/// from place to place, and packs its own pages.
pub(crate) fn unread(head: &[u8]) -> Option<io::Error> {
    let tar = head.get(257..262) == Some(b"ustar");
    let known: [(bool, &str); 6] = [
        (head.starts_with(PARQUET), "parquet inside another packing"),
        (tar, "a tar archive"),
        (head.starts_with(b"PK\x03\x04"), "a zip archive"),
        (head.starts_with(b"\xfd7zXZ\0"), "packed by xz"),
        (head.starts_with(b"7z\xbc\xaf\x27\x1c"), "a 7z archive"),
        (
            head.starts_with(b"BZh") && head.get(4..10) == Some(b"1AY&SY"),
            "packed by bzip2",
        ),
    ];
    let (_, what) = known.into_iter().find(|(is, _)| *is)?;
    Some(broken(format!("is {what}, which is not read here")))
}

/// A frame, or one to be skipped, which pzstd puts before.
fn is_zstd(head: &[u8]) -> bool {
    let skipped = head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18];
    head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skipped
}

/// Bytes of a character that the end of `head` cuts off.
fn cut(head: &[u8]) -> usize {
    match std::str::from_utf8(head) {
        Err(error) if error.error_len().is_none() => head.len() - error.valid_up_to(),
        _ => 0,
    }
}

/// Members of gzip, one after another; zeros behind the last are padding.
struct Members<R> {
    /// Taken out between two members.
    member: Option<GzDecoder<BufReader<R>>>,
}

impl<R: Read> Members<R> {
    fn new(source: R) -> Self {
        let source = BufReader::with_capacity(1 << 16, source);
        Self {
            member: Some(GzDecoder::new(source)),
        }
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(into)?;
            if read > 0 || into.is_empty() {
                return Ok(read);
            }
            let rest = self.member.take().map(GzDecoder::into_inner);
            let Some(mut rest) = rest else { break };
            loop {
                let waiting = rest.fill_buf()?;
                let zeros = waiting.iter().take_while(|byte| **byte == 0).count();
                if waiting.is_empty() {
                    return Ok(0);
                }
                if zeros == 0 {
                    break;
                }
                rest.consume(zeros);
            }
            self.member = Some(GzDecoder::new(rest));
        }
        Ok(0)
    }
}

/// Tells what is wrong with packed bytes; errors of the system pass as they are.
struct Unpacked<R> {
    inner: R,
    packing: &'static str,
}

impl<R> Unpacked<R> {
    fn new(inner: R, packing: &'static str) -> Self {
        Self { inner, packing }
    }
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.inner.read(into).map_err(|error| {
            if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let packing = self.packing;
            broken(if error.kind() == io::ErrorKind::UnexpectedEof {
                format!("is cut short: its {packing} data end too early")
            } else {
                format!("is broken: its {packing} data cannot be unpacked ({error})")
            })
        })
    }
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
