//! Tables drawn with signs: told by the word 表格 or by five dashes.

use crate::sample::{Rule, Sample};

fn has_table(text: &str) -> bool {
    text.contains("表格") || text.contains("-----")
}

pub fn table() -> Rule {
    Rule::drop("table", |sample: &Sample| sample.texts().any(has_table))
}

/// The reference program lets the word stand in the response.
pub fn reference() -> Rule {
    Rule::drop("table-compat", |sample: &Sample| {
        has_table(&sample.prompt) || sample.answers.iter().any(|answer| answer.contains("-----"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing::keeps;

    #[test]
    fn the_reference_forgives_the_word_in_a_response() {
        assert!(!keeps(&table(), "问", &["见表格"]));
        assert!(keeps(&reference(), "问", &["见表格"]));
        assert!(!keeps(&reference(), "问", &["|-----|"]));
        assert!(!keeps(&reference(), "做表格", &["好"]));
    }
}
