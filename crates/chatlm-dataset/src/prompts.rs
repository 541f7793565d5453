//! The prompts of rows, a few at a time: files of any size in bounded memory.

use chatlm_job::Result;

use crate::input::InputOptions;
use crate::rows::{Row, Rows};

/// Reads the field `prompt` of every row, or `text` where there is no `prompt` (the lines of a text
/// file).
pub struct Prompts(Rows);

impl Prompts {
    pub fn open(paths: &[String], options: &InputOptions) -> Result<Self> {
        Rows::open(paths, options).map(Self)
    }

    /// The next `count` prompts; fewer at the end, none behind it. One that is missing, empty or no
    /// text is an error that names its file and row.
    pub fn next(&mut self, count: usize) -> Result<Vec<String>> {
        self.0
            .by_ref()
            .take(count)
            .map(|row| prompt(&row?))
            .collect()
    }
}

fn prompt(row: &Row) -> Result<String> {
    let plain = !row.fields.contains_key("prompt") && row.fields.contains_key("text");
    let field = if plain { "text" } else { "prompt" };
    let text = row.text(field)?;
    if text.is_empty() {
        return Err(row.error(field, &format!("the field {field:?} is empty")));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use chatlm_job::Code;
    use std::fs;

    #[test]
    fn prompts_come_in_order_and_a_wrong_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let rows: Vec<String> = (0..5)
            .map(|n| format!("{{\"prompt\":\"问{n}\"}}"))
            .collect();
        let rows = rows.join("\n");
        fs::write(path("a.jsonl"), rows).unwrap();
        fs::write(path("b.txt"), "一\n\n二\n").unwrap();
        fs::write(path("c.jsonl"), "{\"prompt\":\"\"}\n").unwrap();
        let files = ["a.jsonl", "b.txt", "c.jsonl"].map(path);
        let options = InputOptions::default();
        let mut prompts = Prompts::open(&files[..2], &options).unwrap();
        assert_eq!(prompts.next(3).unwrap(), ["问0", "问1", "问2"]);
        assert_eq!(prompts.next(3).unwrap(), ["问3", "问4", "一"]);
        assert_eq!(prompts.next(3).unwrap(), ["二"]);
        assert!(prompts.next(3).unwrap().is_empty());
        let mut prompts = Prompts::open(&files, &options).unwrap();
        let error = prompts.next(100).unwrap_err();
        assert_eq!(
            (error.code(), &error.context()["row"]),
            (Code::InputRow, &7.into())
        );
    }
}
