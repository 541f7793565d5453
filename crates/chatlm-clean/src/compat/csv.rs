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

/// All records; a carriage return outside quotes that no newline follows is an error, as in Python.
pub(super) fn records(path: &Path, text: &str) -> Result<Vec<Vec<String>>> {
    let mut records = Vec::new();
    let mut record = Record::default();
    let mut state = State::StartRecord;
    for line in text.split_inclusive('\n') {
        for c in line.chars() {
            state = step(state, c, &mut record).ok_or_else(|| {
                Error::new(
                    Code::InputFormat,
                    format!(
                        "{}, record {}: a carriage return stands outside quotes",
                        path.display(),
                        records.len()
                    ),
                    "the reference program stops here too: leave out --compat",
                )
                .with("file", path.display().to_string())
                .with("row", records.len())
            })?;
        }
        state = match state {
            State::InQuotes => State::InQuotes,
            State::StartField | State::InField | State::QuoteInQuotes => {
                record.save();
                State::StartRecord
            }
            State::StartRecord | State::AfterRecord => State::StartRecord,
        };
        if matches!(state, State::StartRecord) {
            records.push(std::mem::take(&mut record).fields);
        }
    }
    if matches!(state, State::InQuotes) {
        record.save();
        records.push(record.fields);
    }
    Ok(records)
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
        records(Path::new("x.csv"), text).unwrap()
    }

    #[test]
    fn records_are_read_as_python_reads_them() {
        assert_eq!(read("a,b\r\nc,\n"), [["a", "b"], ["c", ""]]);
        assert_eq!(read("\"a\nb\",\"c\"\"d\"e\n"), [["a\nb", "c\"de"]]);
        assert_eq!(read("a\"b,c"), [["a\"b", "c"]]);
        assert_eq!(read("\n\"open\nend"), [vec![], vec!["open\nend"]]);
        assert!(records(Path::new("x.csv"), "a\rb\n").is_err());
    }

    #[test]
    fn repaired_fields_keep_their_quotes_and_break_at_carriage_returns() {
        let record = ["a,b\n", "c\r\nd", "e\"f"].map(str::to_owned);
        assert_eq!(repaired(&record), ["a，b\\n,\"c\n", "\\nd\",\"e\"\"f\"\n"]);
    }
}
