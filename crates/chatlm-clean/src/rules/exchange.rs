//! Conversations in which no question is followed by an answer.

use crate::sample::Rule;

/// Drops what a conversation without an exchange was drawn as: a sample without answers.
pub fn no_exchange() -> Rule {
    Rule::drop("no-exchange", |sample| sample.answers.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing::keeps;

    #[test]
    fn a_question_alone_falls() {
        assert!(keeps(&no_exchange(), "问", &["答"]));
        assert!(!keeps(&no_exchange(), "问", &[]));
    }
}
