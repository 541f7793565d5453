//! Answers that too few readers liked.

use chatlm_dataset::Row;
use serde_json::Value;

use crate::sample::Rule;

/// Drops rows whose field `star` is below `least`; the source has told that the field is a number.
pub fn low_star(least: f64) -> Rule {
    Rule::drop_row("low-star", move |row| {
        star(row).is_none_or(|star| star < least)
    })
}

/// The number of the field `star`, also where it is written as text.
pub fn star(row: &Row) -> Option<f64> {
    match row.fields.get("star")? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, Step};

    #[test]
    fn few_stars_fall() {
        let step = |value: Value| {
            let mut row = crate::rules::testing::row();
            row.fields.insert("star".to_owned(), value);
            low_star(5.0).apply(&row, &mut Sample::new("", []))
        };
        assert_eq!(step(5.into()), Step::Passed);
        assert_eq!(step("7".into()), Step::Passed);
        assert_eq!(step(4.into()), Step::Dropped);
        assert_eq!(step(Value::Null), Step::Dropped);
    }
}
