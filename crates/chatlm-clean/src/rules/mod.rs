//! One file a rule. A rule is a function of a text or a sample, named for the funnel where it is put
//! into a source's list.

pub mod characters;
pub mod length;
pub mod newline;
pub mod preference;
pub mod punctuation;
pub mod similarity;
pub mod spaces;
pub mod table;
pub mod translation;

#[cfg(test)]
pub(crate) mod testing {
    use crate::sample::{Rule, Sample};
    use chatlm_dataset::Row;

    /// Whether a rule keeps a prompt and its answers.
    pub(crate) fn keeps(rule: &Rule, prompt: &str, answers: &[&str]) -> bool {
        let row = Row {
            file: "test".into(),
            row: 0,
            fields: serde_json::Map::new(),
        };
        let mut sample = Sample::new(prompt, answers.iter().map(|&answer| answer.to_owned()));
        rule.keeps(&row, &mut sample)
    }
}
