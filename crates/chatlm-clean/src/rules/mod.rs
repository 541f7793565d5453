//! One file a rule. A rule is a function of a text or a sample, named for the funnel; docs/cleaning.md
//! has each with what it changes. A name says what a rule does: where the reference program does
//! otherwise its rule has another, ending in `-compat`.

pub mod characters;
pub mod columns;
pub mod exchange;
pub mod length;
pub mod markup;
pub mod newline;
pub mod page;
pub mod preference;
pub mod punctuation;
pub mod similarity;
pub mod spaces;
pub mod star;
pub mod table;
pub mod translation;

#[cfg(test)]
pub(crate) mod testing {
    use crate::sample::{Rule, Sample, Step};
    use chatlm_dataset::Row;

    /// A row without fields.
    pub(crate) fn row() -> Row {
        Row {
            file: "test".into(),
            row: 0,
            fields: serde_json::Map::new(),
        }
    }

    /// Whether a rule keeps a prompt and its answers.
    pub(crate) fn keeps(rule: &Rule, prompt: &str, answers: &[&str]) -> bool {
        let mut sample = Sample::new(prompt, answers.iter().map(|&answer| answer.to_owned()));
        rule.apply(&row(), &mut sample) != Step::Dropped
    }
}
