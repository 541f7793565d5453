//! White space: one space between words, no blanks around the text or at line ends, at most one empty
//! line. Spaces at the start of a line stay, since answers hold code; full-width ones there are the
//! indentation of Chinese paragraphs and go.
//!
//! The reference program turns every space into a comma instead.

use std::borrow::Cow;

use crate::sample::Rule;

pub fn spaces() -> Rule {
    Rule::rewrite("spaces", tidy)
}

pub fn tidy(text: &str) -> Cow<'_, str> {
    if is_tidy(text) {
        return Cow::Borrowed(text);
    }
    let mut tidied = String::with_capacity(text.len());
    let mut empty = 0;
    for line in text.split('\n') {
        let line = line.trim_end();
        if line.is_empty() {
            empty += 1;
            continue;
        }
        if !tidied.is_empty() {
            tidied.push_str(if empty == 0 { "\n" } else { "\n\n" });
        }
        empty = 0;
        squeeze(line, tidied.is_empty(), &mut tidied);
    }
    Cow::Owned(tidied)
}

/// Whether one line is surely as it should be, which most texts are.
fn is_tidy(text: &str) -> bool {
    let mut space = true;
    for c in text.chars() {
        if matches!(c, '\n' | '\t' | '\u{3000}' | '\u{a0}') || (c == ' ' && space) {
            return false;
        }
        space = c == ' ';
    }
    text.trim().len() == text.len()
}

/// One line with single spaces; the first, and one of full-width spaces, has no indentation.
fn squeeze(line: &str, first: bool, into: &mut String) {
    let words = line.trim_start();
    let indentation = &line[..line.len() - words.len()];
    if !first && indentation.is_ascii() {
        into.push_str(indentation);
    }
    let mut space = false;
    for c in words.chars() {
        let blank = matches!(c, ' ' | '\t' | '\u{3000}' | '\u{a0}');
        if !blank {
            into.push(c);
        } else if !space {
            into.push(' ');
        }
        space = blank;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_are_single_and_lines_keep_their_indentation() {
        assert_eq!(tidy("　　你　好  吗 \n\n\n　　好。\n"), "你 好 吗\n\n好。");
        assert_eq!(
            tidy("  for x in y:\n    print(x)\n"),
            "for x in y:\n    print(x)"
        );
        assert_eq!(tidy(" \n\t\u{a0}"), "");
    }

    #[test]
    fn tidying_twice_changes_nothing() {
        for text in [
            "a\u{3000} b\n \n\n c",
            "\u{3000} x",
            "\n\n\u{a0}\n甲 \u{3000}\n\u{3000}\u{3000} 乙",
        ] {
            assert_eq!(tidy(&tidy(text)), tidy(text), "{text:?}");
        }
    }
}
