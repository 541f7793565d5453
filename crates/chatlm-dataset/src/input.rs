//! What an input is: paths to files, and the format and encoding of a file told by its content.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use chatlm_job::{Code, Error, Result};

use crate::encoding::{Decoded, detect, named, preview};
use crate::packed::{read_error, unpack, unread, within};

/// How inputs are read.
#[derive(Debug, Clone, Default)]
pub struct InputOptions {
    /// The encoding of text files; detected where `None`.
    pub encoding: Option<String>,
    /// Count rows that cannot be read instead of stopping at the first.
    pub keep_going: bool,
}

/// Endings of the files that a folder is searched for.
const ENDINGS: [&str; 6] = ["parquet", "jsonl", "json", "csv", "tsv", "txt"];

/// How much of a file is looked at to tell its encoding and format.
const HEAD: u64 = 1 << 20;

/// The files meant by `paths`: a file, a folder (its data files, sorted), a glob (sorted), `-`.
pub fn expand(paths: &[String]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let before = files.len();
        let plain = Path::new(path);
        if path == "-" {
            files.push(PathBuf::from("-"));
        } else if plain.is_dir() {
            files.extend(data_files(plain)?);
        } else if plain.exists() {
            files.push(plain.to_owned());
        } else if path.contains(['*', '?', '[']) {
            files.extend(matching(path)?);
        }
        if files.len() == before {
            let what = if plain.is_dir() {
                "holds no data files"
            } else {
                "does not exist"
            };
            return Err(Error::new(
                Code::InputNotFound,
                format!("{path} {what}"),
                "check the path; relative paths start at the current folder, and a folder is \
                 searched for .parquet, .jsonl, .json, .csv, .tsv and .txt, plain or packed (.gz, .zst)",
            )
            .with("file", path.as_str()));
        }
    }
    if files.is_empty() {
        return Err(Error::new(
            Code::InputNotFound,
            "no input was given",
            "name a file, a folder or a glob, or - for standard input",
        ));
    }
    Ok(files)
}

fn data_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(&e, "read", folder))? {
        let path = entry.map_err(|e| Error::io(&e, "read", folder))?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.is_file() && ENDINGS.contains(&ending(&path).as_str()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn matching(pattern: &str) -> Result<Vec<PathBuf>> {
    // As shells do: * leaves hidden files out.
    let settings = glob::MatchOptions {
        require_literal_leading_dot: true,
        ..Default::default()
    };
    let found = glob::glob_with(pattern, settings).map_err(|e| {
        Error::new(
            Code::Usage,
            format!("{pattern} is not a glob: {e}"),
            "write * for any characters, ? for one, [ab] for a or b",
        )
    })?;
    let mut found: Vec<PathBuf> = found
        .collect::<Result<_, _>>()
        .map_err(|e| Error::io(&std::io::Error::from(e.error().kind()), "read", e.path()))?;
    found.sort();
    let mut files = Vec::new();
    for path in found {
        if path.is_dir() {
            files.extend(data_files(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// The ending of a file name in small letters, without that of a packing, or nothing.
pub(crate) fn ending(path: &Path) -> String {
    within(path)
        .extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default()
}

/// How a text file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One JSON object a line.
    JsonLines,
    /// One array of JSON objects, or objects over several lines.
    Json,
    /// Fields separated by this byte, names in the first row.
    Separated(u8),
    /// Plain lines.
    Lines,
}

/// A file opened and told.
pub(crate) enum Opened {
    Parquet(ParquetBytes),
    Text {
        layout: Layout,
        reader: Box<dyn BufRead + Send>,
    },
}

/// Where parquet's random reads go.
pub(crate) enum ParquetBytes {
    File(File),
    Memory(Arc<[u8]>),
}

/// Opens `path` (`-` is standard input) and tells its format. Undecodable bytes are counted into `replaced`.
pub(crate) fn open(
    path: &Path,
    options: &InputOptions,
    replaced: Arc<AtomicU64>,
) -> Result<Opened> {
    let fail = |e: &std::io::Error| read_error(e, path);
    let stdin = path == Path::new("-");
    let source: Box<dyn Read + Send> = if stdin {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).map_err(|e| fail(&e))?)
    };
    let (mut source, packed) = unpack(source, path).map_err(|e| fail(&e))?;
    let mut head = Vec::new();
    source
        .by_ref()
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(|e| fail(&e))?;
    if packed && let Some(what) = unread(&head) {
        return Err(fail(&what));
    }
    if head.starts_with(b"PAR1") {
        return Ok(Opened::Parquet(if stdin {
            source.read_to_end(&mut head).map_err(|e| fail(&e))?;
            ParquetBytes::Memory(head.into())
        } else {
            ParquetBytes::File(File::open(path).map_err(|e| fail(&e))?)
        }));
    }
    let encoding = match &options.encoding {
        Some(label) => named(label, &head)?,
        None => detect(&head),
    };
    let whole = (head.len() as u64) < HEAD;
    let text = preview(encoding, &head);
    // Files of old Macs end their lines so.
    let returns = text.contains('\r') && !text.contains('\n');
    let text = if returns {
        text.replace('\r', "\n")
    } else {
        text
    };
    let layout = tell(&text, &ending(path), whole).ok_or_else(|| {
        Error::new(
            Code::InputFormat,
            format!(
                "{} is not a parquet file: it does not start with PAR1",
                path.display()
            ),
            "the file is broken or was cut off: make or fetch it again",
        )
        .with("file", path.display().to_string())
    })?;
    let bytes = Cursor::new(head).chain(source);
    let decoded = Decoded::new(bytes, encoding, replaced);
    let reader: Box<dyn BufRead + Send> = if returns {
        Box::new(BufReader::with_capacity(1 << 16, Returns(decoded)))
    } else {
        Box::new(BufReader::with_capacity(1 << 16, decoded))
    };
    Ok(Opened::Text { layout, reader })
}

/// Text whose lines end in carriage returns, with newlines instead.
struct Returns<R>(R);

impl<R: Read> Read for Returns<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let size = self.0.read(into)?;
        for byte in &mut into[..size] {
            if *byte == b'\r' {
                *byte = b'\n';
            }
        }
        Ok(size)
    }
}

/// Tells the layout from the first text and the ending; `None`: said to be parquet and is nothing readable.
fn tell(text: &str, ending: &str, whole: bool) -> Option<Layout> {
    let start = text.trim_start();
    let first = start.lines().next().unwrap_or_default().trim_end();
    if start.starts_with('{') {
        let complete = serde_json::from_str::<serde_json::Value>(first).is_ok();
        let second = start.lines().nth(1).unwrap_or_default().trim_start();
        // A broken first row of JSON lines is followed by another object, a pretty-printed object by a name.
        let lines = complete || second.starts_with('{') || ending == "jsonl" || first.len() > 4096;
        return Some(if lines {
            Layout::JsonLines
        } else {
            Layout::Json
        });
    }
    if let Some(rest) = start.strip_prefix('[')
        && (rest.trim_start().starts_with(['{', ']']) || (ending == "json" && whole))
    {
        return Some(Layout::Json);
    }
    match ending {
        "csv" => return Some(Layout::Separated(separator(first).unwrap_or(b','))),
        "tsv" => return Some(Layout::Separated(b'\t')),
        _ => {}
    }
    if let Some(separator) = separator(first).filter(|s| looks_separated(text, *s, whole)) {
        return Some(Layout::Separated(separator));
    }
    match ending {
        "parquet" => None,
        // Each line that is no object will be named as a broken row.
        "jsonl" | "json" if !start.is_empty() => Some(Layout::JsonLines),
        _ => Some(Layout::Lines),
    }
}

fn separator(first: &str) -> Option<u8> {
    let count = |byte: u8| first.bytes().filter(|b| *b == byte).count();
    match (count(b'\t'), count(b',')) {
        (0, 0) => None,
        (tabs, commas) if tabs >= commas => Some(b'\t'),
        _ => Some(b','),
    }
}

/// Whether text of no telling name is a table: a header of short distinct names, rows of as many fields.
fn looks_separated(text: &str, separator: u8, whole: bool) -> bool {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut rows: Vec<csv::StringRecord> =
        reader.records().map_while(Result::ok).take(24).collect();
    if !whole && rows.len() > 2 {
        rows.pop();
    }
    let Some((header, rows)) = rows.split_first() else {
        return false;
    };
    let names: std::collections::HashSet<&str> = header.iter().map(str::trim).collect();
    let named = header.len() > 1
        && names.len() == header.len()
        && names.iter().all(|name| looks_like_a_name(name));
    named && !rows.is_empty() && rows.iter().all(|row| row.len() == header.len())
}

/// A first row of data ("体验2D巅峰 倚天\t8") is no header: names have no blanks and are no numbers.
fn looks_like_a_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().count() <= 32
        && name.parse::<f64>().is_err()
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || "_-.:/()（）".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_told_by_content() {
        for (text, ending, layout) in [
            ("{\"a\": 1}\n{\"a\": 2}\n", "txt", Some(Layout::JsonLines)),
            ("{\"a\": 1\n{\"a\": 2}\n", "json", Some(Layout::JsonLines)),
            ("{\n  \"a\": 1\n}\n", "json", Some(Layout::Json)),
            (" [\n {\"a\": 1}]", "dat", Some(Layout::Json)),
            ("[SEP] is a token\n", "txt", Some(Layout::Lines)),
            (
                "prompt,response\na,b\n",
                "dat",
                Some(Layout::Separated(b',')),
            ),
            (
                "prompt\tresponse\na\tb\n",
                "txt",
                Some(Layout::Separated(b'\t')),
            ),
            ("说，好\n你好, 世界\n", "txt", Some(Layout::Lines)),
            ("One, two.\nThree\n", "txt", Some(Layout::Lines)),
            (
                "体验2D巅峰 倚天\t8\n通过奶粉\t3\n",
                "txt",
                Some(Layout::Lines),
            ),
            ("text\na, b\n", "csv", Some(Layout::Separated(b','))),
            ("not json\n", "jsonl", Some(Layout::JsonLines)),
            ("", "jsonl", Some(Layout::Lines)),
            ("garbage", "parquet", None),
        ] {
            assert_eq!(tell(text, ending, true), layout, "{text:?} .{ending}");
        }
    }
}
