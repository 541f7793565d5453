//! Newlines written as a backslash and an n, as in the published Chinese preference sets.

use crate::sample::Rule;

pub fn literal_newlines() -> Rule {
    Rule::rewrite("newlines", |text| text.replace("\\n", "\n"))
}
