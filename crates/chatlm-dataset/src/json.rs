//! JSON: one object a line, an array of objects, or objects over several lines, read as a stream.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lines::{LIMIT, Lines, too_long};
use crate::packed::read_error;
use crate::rows::{Fault, Fields};

fn object(text: &[u8]) -> Result<Fields, Fault> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Fault::Row("it is not a JSON object".to_owned())),
        Err(error) => Err(Fault::Row(format!("it is not JSON: {error}"))),
    }
}

/// One object a line.
pub(crate) fn lines(
    path: &Path,
    reader: Box<dyn BufRead + Send>,
) -> impl Iterator<Item = Result<Fields, Fault>> + Send + use<> {
    Lines::new(path, reader).map(|line| object(line?.as_bytes()))
}

/// The objects of an array, or one after another without one.
pub(crate) fn values(
    path: &Path,
    reader: Box<dyn BufRead + Send>,
) -> impl Iterator<Item = Result<Fields, Fault>> + Send + use<> {
    Values {
        reader,
        path: path.to_owned(),
        array: false,
        begun: false,
        ended: false,
    }
}

/// Cuts the stream at the ends of the outermost values, so that only one is held at a time.
struct Values {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    array: bool,
    begun: bool,
    ended: bool,
}

/// Where the cutter is inside a value.
#[derive(Default)]
struct Place {
    depth: usize,
    text: bool,
    escaped: bool,
}

impl Place {
    /// Steps over a byte; true where it closes the outermost value.
    fn step(&mut self, byte: u8) -> bool {
        if self.text {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.text = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.text = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

impl Values {
    /// The next value's bytes; `None` at the proper end; an error text where the file was cut off.
    fn cut(&mut self) -> std::io::Result<Option<Result<Vec<u8>, String>>> {
        let (mut value, mut place, mut size) = (Vec::new(), Place::default(), 0);
        loop {
            let piece = self.reader.fill_buf()?;
            if piece.is_empty() {
                self.ended = true;
                let rest = value.trim_ascii();
                return Ok(if rest.is_empty() && !self.array {
                    None
                } else if rest.is_empty() {
                    Some(Err(
                        "the file ends before the array does: it was cut off".to_owned()
                    ))
                } else {
                    Some(Err(
                        "the file ends inside this row: it was cut off".to_owned()
                    ))
                });
            }
            let mut used = 0;
            let mut closed = false;
            for byte in piece {
                used += 1;
                if !self.begun && !byte.is_ascii_whitespace() {
                    self.begun = true;
                    if *byte == b'[' {
                        self.array = true;
                        continue;
                    }
                }
                if place.depth == 0 && !place.text {
                    match byte {
                        // The array's own end; what is before it is a value without brackets.
                        b']' if self.array => {
                            self.ended = true;
                            self.reader.consume(used);
                            let rest = value.trim_ascii();
                            return Ok((!rest.is_empty()).then(|| Ok(rest.to_vec())));
                        }
                        b',' if self.array => {
                            if value.trim_ascii().is_empty() {
                                value.clear();
                                continue;
                            }
                            closed = true;
                            break;
                        }
                        _ => {}
                    }
                }
                size += 1;
                if size <= LIMIT {
                    value.push(*byte);
                } else {
                    value = Vec::new();
                }
                if place.step(*byte) {
                    closed = true;
                    break;
                }
            }
            self.reader.consume(used);
            if closed {
                let fits = if size > LIMIT {
                    Err(too_long())
                } else {
                    Ok(value)
                };
                return Ok(Some(fits));
            }
        }
    }
}

impl Iterator for Values {
    type Item = Result<Fields, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.cut() {
            Ok(None) => None,
            Ok(Some(Ok(value))) => Some(object(value.trim_ascii())),
            Ok(Some(Err(what))) => Some(Err(Fault::Row(what))),
            Err(error) => {
                self.ended = true;
                Some(Err(Fault::File(read_error(&error, &self.path))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Vec<Result<String, String>> {
        values(Path::new("x"), Box::new(text.as_bytes()))
            .map(|row| match row {
                Ok(fields) => Ok(Value::Object(fields).to_string()),
                Err(Fault::Row(what)) => Err(what),
                Err(Fault::Rows(error, _) | Fault::File(error)) => Err(error.to_string()),
            })
            .collect()
    }

    #[test]
    fn arrays_and_bare_objects_are_cut_into_rows() {
        for text in [
            r#"[{"a":"]},\"{"},{"b":[1,{"c":2}]}]"#,
            "{\"a\":\"]},\\\"{\"}\n{\n\"b\": [1, {\"c\": 2}]}\n",
            " [ {\"a\":\"]},\\\"{\"} ,\n {\"b\":[1,{\"c\":2}]} ] ",
        ] {
            let rows = read(text);
            assert_eq!(
                rows,
                [
                    Ok(r#"{"a":"]},\"{"}"#.to_owned()),
                    Ok(r#"{"b":[1,{"c":2}]}"#.to_owned())
                ],
                "{text}"
            );
        }
        assert!(read("[]").is_empty());
    }

    #[test]
    fn a_broken_row_does_not_hide_the_next() {
        let rows = read(r#"[{"a":1},{"b" 2},3,{"c":3}]"#);
        let fine: Vec<bool> = rows.iter().map(Result::is_ok).collect();
        assert_eq!(fine, [true, false, false, true]);
    }

    #[test]
    fn a_cut_off_file_is_told() {
        for text in [r#"[{"a":1},{"b":"#, r#"[{"a":1},"#, r#"[{"a":1}"#] {
            let rows = read(text);
            assert!(
                matches!(rows.last(), Some(Err(what)) if what.contains("cut off")),
                "{rows:?}"
            );
        }
    }
}
