//! Newlines written as a backslash and an n, as in the published Chinese preference sets.

use std::borrow::Cow;

use crate::sample::Rule;

pub fn literal_newlines() -> Rule {
    Rule::rewrite("newlines", real)
}

pub fn real(text: &str) -> Cow<'_, str> {
    if text.contains("\\n") {
        Cow::Owned(text.replace("\\n", "\n"))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_and_an_n_are_a_newline() {
        assert_eq!(real("一\\n二\\\\n"), "一\n二\\\n");
        assert!(matches!(real("一\n二"), Cow::Borrowed(_)));
    }
}
