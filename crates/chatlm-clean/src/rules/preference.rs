//! Preference pairs whose two answers are the same teach nothing.

use crate::sample::Rule;

pub fn same_answers() -> Rule {
    Rule::drop("same-answers", |sample| {
        sample
            .answers
            .windows(2)
            .any(|pair| pair[0].trim() == pair[1].trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing::keeps;

    #[test]
    fn blanks_make_no_difference() {
        assert!(!keeps(&same_answers(), "问", &["好", " 好\n"]));
        assert!(keeps(&same_answers(), "问", &["好", "坏"]));
        assert!(keeps(&same_answers(), "问", &["好"]));
    }
}
