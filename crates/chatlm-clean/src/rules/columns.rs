//! Csv rows that have fewer fields than their source's layout.

use crate::sample::Rule;

pub fn few_columns(least: usize) -> Rule {
    Rule::drop_row("few-columns", move |row| row.fields.len() < least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, Step};

    #[test]
    fn short_rows_fall() {
        let mut row = crate::rules::testing::row();
        row.fields.insert("a".to_owned(), "".into());
        let step = |least| few_columns(least).apply(&row, &mut Sample::new("", []));
        assert_eq!((step(1), step(2)), (Step::Passed, Step::Dropped));
    }
}
