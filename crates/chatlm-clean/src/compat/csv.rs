//! Csv as Python's `csv.reader` and `csv.writer` have it with their defaults (the states of
//! CPython's `_csv.c`, not strict).

use std::path::Path;

use chatlm_job::{Code, Error, Result};

enum State {
    StartRecord,
    StartField,
    InField,
    InQuotes,
    QuoteInQuotes,
    AfterRecord,
}

#[derive(Default)]
struct Record {
    fields: Vec<String>,
    field: String,
}

impl Record {
    fn save(&mut self) {
        self.fields.push(std::mem::take(&mut self.field));
    }
}

/// Takes a file line by line and gives its records; a carriage return outside quotes that no newline
/// follows is an error, as in Python.
pub(super) struct Reader {
    record: Record,
    state: State,
    read: usize,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            record: Record::default(),
            state: State::StartRecord,
            read: 0,
        }
    }

    /// The record that this line ends; `None` inside quotes.
    pub(super) fn line(&mut self, path: &Path, line: &str) -> Result<Option<Vec<String>>> {
        let mut state = std::mem::replace(&mut self.state, State::StartRecord);
        for c in line.chars() {
            state = step(state, c, &mut self.record).ok_or_else(|| {
                Error::new(
                    Code::InputFormat,
                    format!(
                        "{}, record {}: a carriage return stands outside quotes",
                        path.display(),
                        self.read
                    ),
                    "the reference program stops here too: leave out --compat",
                )
                .with("file", path.display().to_string())
                .with("row", self.read)
            })?;
        }
        match state {
            State::InQuotes => {
                self.state = State::InQuotes;
                return Ok(None);
            }
            State::StartField | State::InField | State::QuoteInQuotes => self.record.save(),
            State::StartRecord | State::AfterRecord => {}
        }
        self.read += 1;
        Ok(Some(std::mem::take(&mut self.record).fields))
    }

    /// What the end of the file leaves inside quotes.
    pub(super) fn end(&mut self) -> Option<Vec<String>> {
        let open = matches!(self.state, State::InQuotes);
        self.state = State::StartRecord;
        open.then(|| {
            self.record.save();
            std::mem::take(&mut self.record).fields
        })
    }
}

/// The state after a character; `None` where Python raises an error.
fn step(state: State, c: char, record: &mut Record) -> Option<State> {
    Some(match (state, c) {
        (State::StartRecord | State::AfterRecord, '\r' | '\n') => State::AfterRecord,
        (State::AfterRecord, _) => return None,
        (State::StartField | State::InField | State::QuoteInQuotes, '\r' | '\n') => {
            record.save();
            State::AfterRecord
        }
        (State::StartRecord | State::StartField, '"') => State::InQuotes,
        (State::InQuotes, '"') => State::QuoteInQuotes,
        (State::InQuotes, c) => {
            record.field.push(c);
            State::InQuotes
        }
        (State::QuoteInQuotes, '"') => {
            record.field.push('"');
            State::InQuotes
        }
        (_, ',') => {
            record.save();
            State::StartField
        }
        (_, c) => {
            record.field.push(c);
            State::InField
        }
    })
}

/// The pieces of a line that end as Python's `str.splitlines` has it, or the line itself.
pub(super) fn lines(line: &str, unicode: bool) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let end = if unicode {
            rest.char_indices().find_map(|(at, c)| {
                let after = at + c.len_utf8();
                let ends = match c {
                    '\r' => !rest[after..].starts_with('\n'),
                    '\n'
                    | '\u{b}'
                    | '\u{c}'
                    | '\u{1c}'..='\u{1e}'
                    | '\u{85}'
                    | '\u{2028}'
                    | '\u{2029}' => true,
                    _ => false,
                };
                ends.then_some(after)
            })
        } else {
            None
        };
        let (piece, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A record repaired, written as csv and read again by lines, each with its newline.
pub(super) fn repaired(record: &[String]) -> Vec<String> {
    let fields: Vec<String> = record
        .iter()
        .map(|field| {
            let field = field.replace('\n', "\\n").replace(',', "，");
            let alone = record.len() == 1 && field.is_empty();
            if alone || field.contains(['"', '\r']) {
                format!("\"{}\"", field.replace('"', "\"\""))
            } else {
                field
            }
        })
        .collect();
    fields
        .join(",")
        .split('\r')
        .map(|line| format!("{line}\n"))
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Vec<String>> {
        let mut reader = Reader::new();
        let lines = text.split_inclusive('\n');
        let mut records: Vec<_> = lines
            .filter_map(|line| reader.line(Path::new("x.csv"), line).unwrap())
            .collect();
        records.extend(reader.end());
        records
    }

    #[test]
    fn records_are_read_as_python_reads_them() {
        assert_eq!(read("a,b\r\nc,\n"), [["a", "b"], ["c", ""]]);
        assert_eq!(read("\"a\nb\",\"c\"\"d\"e\n"), [["a\nb", "c\"de"]]);
        assert_eq!(read("a\"b,c"), [["a\"b", "c"]]);
        assert_eq!(read("\n\"open\nend"), [vec![], vec!["open\nend"]]);
        assert!(Reader::new().line(Path::new("x.csv"), "a\rb\n").is_err());
    }

    #[test]
    fn repaired_fields_keep_their_quotes_and_break_at_carriage_returns() {
        let record = ["a,b\n", "c\r\nd", "e\"f"].map(str::to_owned);
        assert_eq!(repaired(&record), ["a，b\\n,\"c\n", "\\nd\",\"e\"\"f\"\n"]);
    }

    #[test]
    fn lines_end_where_python_ends_them() {
        let text = "a\u{b}b\r\u{2028}c\r\n";
        let pieces: Vec<&str> = lines(text, true).collect();
        assert_eq!(pieces, ["a\u{b}", "b\r", "\u{2028}", "c\r\n"]);
        assert_eq!(lines(text, false).count(), 1);
    }
}
