//! Csv with broken quotes. Well-formed csv gives the records of RFC 4180, newlines inside quotes and
//! all. A quote that opens a field and is not properly closed (by a quote before a separator or a
//! line's end) within [`LINES`] further lines is a plain sign of its field: the record ends with its
//! line, and what follows is read as if nothing had happened. So a broken quote costs its own row's
//! quotes and no other row.

use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chatlm_job::Result;

use crate::lines::Lines;
use crate::packed::read_error;
use crate::rows::{Fault, FileRows};
use crate::separated::{fields, names};

/// How far a quoted field may reach beyond the line that opens it.
const LINES: usize = 256;
const BYTES: usize = 1 << 20;

/// Records of a file; `mended` counts those whose quote was taken for a plain sign.
pub(crate) fn rows(
    path: &Path,
    reader: Box<dyn BufRead + Send>,
    separator: u8,
    ragged: bool,
    mended: Arc<AtomicU64>,
) -> Result<FileRows> {
    let path = path.to_owned();
    let mut records = Records {
        lines: Lines::new(&path, reader),
        separator: char::from(separator),
        waiting: VecDeque::new(),
        mended,
    };
    let header = match records.next() {
        Ok(None) => return Ok(Box::new(std::iter::empty())),
        Ok(Some(Ok(header))) => names(&path, header.into_iter())?,
        Ok(Some(Err(what))) => {
            return Err(crate::rows::row_error(
                &path.display().to_string(),
                0,
                &what,
            ));
        }
        Err(error) => return Err(read_error(&error, &path)),
    };
    let mut stopped = false;
    Ok(Box::new(std::iter::from_fn(move || {
        if stopped {
            return None;
        }
        match records.next() {
            Ok(record) => Some(match record? {
                Ok(record) if ragged || record.len() == header.len() => {
                    Ok(fields(&header, record.into_iter()))
                }
                Ok(record) => Err(Fault::Row(format!(
                    "it has {} fields where the first row names {}",
                    record.len(),
                    header.len()
                ))),
                Err(what) => Err(Fault::Row(what)),
            }),
            Err(error) => {
                stopped = true;
                Some(Err(Fault::File(read_error(&error, &path))))
            }
        }
    })))
}

/// A line with its end, or what is wrong with it.
type Line = Result<String, String>;

struct Records {
    lines: Lines,
    separator: char,
    /// Read to see whether a quote is closed, not yet used.
    waiting: VecDeque<Line>,
    mended: Arc<AtomicU64>,
}

impl Records {
    /// The line after as many that wait; `None` at the end of the file.
    fn line(&mut self, at: usize) -> io::Result<Option<&Line>> {
        while self.waiting.len() <= at {
            match self.lines.line()? {
                Some(line) => self.waiting.push_back(line),
                None => return Ok(None),
            }
        }
        Ok(self.waiting.get(at))
    }

    fn next(&mut self) -> io::Result<Option<Result<Vec<String>, String>>> {
        loop {
            let mut record = Record::new(self.separator);
            let line = match self.line(0)? {
                None => return Ok(None),
                Some(Ok(line)) if line.trim_end_matches(['\r', '\n']).is_empty() => {
                    self.waiting.pop_front();
                    continue;
                }
                Some(Err(what)) => {
                    let what = what.clone();
                    self.waiting.pop_front();
                    return Ok(Some(Err(what)));
                }
                Some(Ok(line)) => line,
            };
            let mut end = record.line(line, &[]);
            let (mut used, mut bytes) = (1, line.len());
            while end == End::Open && used <= LINES && bytes <= BYTES {
                let Some(Ok(line)) = self.line(used)? else {
                    break;
                };
                bytes += line.len();
                end = record.line(line, &[]);
                used += 1;
            }
            if end == End::Whole {
                self.waiting.drain(..used);
                return Ok(Some(Ok(record.fields)));
            }
            self.mended.fetch_add(1, Ordering::Relaxed);
            let line = self.waiting.pop_front().and_then(Result::ok);
            return Ok(Some(Ok(alone(&line.unwrap_or_default(), self.separator))));
        }
    }
}

/// A line as a record of its own: the quotes it leaves open are plain signs.
fn alone(line: &str, separator: char) -> Vec<String> {
    let mut plain = Vec::new();
    loop {
        let mut record = Record::new(separator);
        if record.line(line, &plain) == End::Whole {
            return record.fields;
        }
        plain.push(record.fields.len());
    }
}

/// How a line leaves a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// Inside quotes.
    Open,
    /// A quote of an earlier line was followed by something else than a separator.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Plain,
    Quoted,
    /// After a quote inside quotes.
    Quote,
}

struct Record {
    separator: char,
    fields: Vec<String>,
    field: String,
    state: State,
}

impl Record {
    fn new(separator: char) -> Self {
        Self {
            separator,
            fields: Vec::with_capacity(8),
            field: String::new(),
            state: State::Start,
        }
    }

    fn save(&mut self) {
        self.fields.push(std::mem::take(&mut self.field));
        self.state = State::Start;
    }

    /// Takes a line with its end; quotes do not count in the fields of these numbers.
    fn line(&mut self, line: &str, plain: &[usize]) -> End {
        let text = line.strip_suffix('\n').unwrap_or(line);
        let end = text.strip_suffix('\r').unwrap_or(text).len();
        if self.state == State::Start && !text.contains('"') {
            let fields = text[..end].split(self.separator);
            self.fields.extend(fields.map(str::to_owned));
            return End::Whole;
        }
        let mut earlier = self.state == State::Quoted;
        for (at, c) in line.char_indices() {
            // What ends the line ends the record, unless it stands inside quotes.
            if at >= end && self.state != State::Quoted {
                self.save();
                return End::Whole;
            }
            match (self.state, c) {
                (State::Start, '"') if !plain.contains(&self.fields.len()) => {
                    self.state = State::Quoted;
                }
                (State::Quoted, '"') => self.state = State::Quote,
                (State::Quote, '"') => {
                    self.field.push('"');
                    self.state = State::Quoted;
                }
                (State::Quoted, c) => self.field.push(c),
                (_, c) if c == self.separator => {
                    self.save();
                    earlier = false;
                }
                (State::Quote, _) if earlier => return End::Broken,
                (_, c) => {
                    self.field.push(c);
                    self.state = State::Plain;
                }
            }
        }
        if self.state == State::Quoted {
            return End::Open;
        }
        self.save();
        End::Whole
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> (Vec<Vec<String>>, u64) {
        let mended = Arc::new(AtomicU64::new(0));
        let mut records = Records {
            lines: Lines::new("x".as_ref(), Box::new(io::Cursor::new(text.to_owned()))),
            separator: ',',
            waiting: VecDeque::new(),
            mended: mended.clone(),
        };
        let mut all = Vec::new();
        while let Some(record) = records.next().unwrap() {
            all.push(record.unwrap());
        }
        (all, mended.load(Ordering::Relaxed))
    }

    fn written(records: &[Vec<String>]) -> String {
        let mut writer = csv::WriterBuilder::new()
            .flexible(true)
            .from_writer(Vec::new());
        for record in records {
            writer.write_record(record).unwrap();
        }
        String::from_utf8(writer.into_inner().unwrap()).unwrap()
    }

    #[test]
    fn a_broken_quote_costs_its_own_row_alone() {
        let (rows, mended) = read("a,b\n1,\"never closed\n2,\"x\ny\"\n\n3,\"a,\"b\"\r\n4,5");
        assert_eq!(
            rows,
            [
                vec!["a", "b"],
                vec!["1", "\"never closed"],
                vec!["2", "x\ny"],
                vec!["3", "a,b\""],
                vec!["4", "5"],
            ]
        );
        assert_eq!(mended, 1);
    }

    #[test]
    fn quotes_inside_plain_fields_are_signs() {
        let (rows, mended) = read("说\"好\"的,\"他说\"\"好\"\"\",\"头\"痛\n\"\"\n");
        assert_eq!(rows, [vec!["说\"好\"的", "他说\"好\"", "头痛"], vec![""]]);
        assert_eq!(mended, 0);
    }

    #[test]
    fn a_quote_open_to_the_end_of_a_long_file_is_mended() {
        let mut text = "h,\"open\n".to_owned();
        text.push_str(&"1,2\n".repeat(LINES * 3));
        let (rows, mended) = read(&text);
        assert_eq!((rows.len(), mended), (LINES * 3 + 1, 1));
    }

    fn field() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z一-丁]{1,6}",
            "[\",\n\r a一]{0,8}",
            Just("\"".to_owned()),
            Just(String::new()),
        ]
    }

    fn table() -> impl Strategy<Value = Vec<Vec<String>>> {
        prop::collection::vec(prop::collection::vec(field(), 2..5), 1..12)
    }

    /// Rows of texts that begin and end with a character.
    fn words() -> impl Strategy<Value = Vec<Vec<String>>> {
        let field = "[a-z一-丁]([\",\n\r a一]{0,6}[a-z一-丁])?";
        prop::collection::vec(prop::collection::vec(field, 2..5), 0..12)
    }

    proptest! {
        /// What a csv writer wrote is read as it was, with as many rows.
        #[test]
        fn well_formed_csv_is_read_as_written(records in table()) {
            prop_assert_eq!(read(&written(&records)), (records, 0));
        }

        /// A quote opened at the start of a field and never closed changes no other row, unless a field
        /// after it begins with a newline, which reads like the end of the quote.
        #[test]
        fn one_broken_row_leaves_the_others(
            before in table(), after in words(), broken in prop::collection::vec("[a-z一-丁]{1,6}", 2..5),
        ) {
            let broken = format!("\"{}", broken.join(","));
            let text = format!("{}{broken}\n{}", written(&before), written(&after));
            let (rows, mended) = read(&text);
            prop_assert_eq!(mended, 1);
            prop_assert_eq!(rows.len(), before.len() + 1 + after.len());
            prop_assert_eq!(&rows[..before.len()], &before[..]);
            prop_assert_eq!(rows[before.len()].join(","), broken);
            prop_assert_eq!(&rows[before.len() + 1..], &after[..]);
        }

        /// Nothing is lost and nothing stops, whatever the bytes.
        #[test]
        fn any_text_is_read(text in "[\",\n\ra一]{0,60}") {
            let (rows, _) = read(&text);
            let signs = |text: &str| text.chars().filter(|c| matches!(c, 'a' | '一')).count();
            let read: usize = rows.iter().flatten().map(|field| signs(field)).sum();
            prop_assert_eq!(read, signs(&text));
            let filled = text.split('\n').filter(|line| !line.trim_end_matches('\r').is_empty());
            prop_assert!(rows.len() <= filled.count());
        }
    }
}
