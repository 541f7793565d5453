//! What the rewriting rules of the default way promise together, for any text.

use chatlm_clean::rules::{characters, markup, punctuation, spaces};
use proptest::prelude::*;

/// The texts of a source that pass every rewriting rule.
fn cleaned(text: &str) -> String {
    let text = characters::clean(text).into_owned();
    let text = markup::plain(&text).into_owned();
    let text = spaces::tidy(&text).into_owned();
    punctuation::once(&text).into_owned()
}

fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z一-丁0-9]{1,4}",
        "[ \t\r\n\u{3000}\u{a0}\u{85}\u{2028}]{1,3}",
        "[！？。，、；：～!?,….—]{1,4}",
        "[\u{200b}\u{feff}\u{fffd}\u{0}\u{ad}\u{200d}]",
        Just("<br>".to_owned()),
        Just("&nbsp;".to_owned()),
        "\\PC{1,3}",
    ];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn cleaning_twice_changes_nothing(text in texts()) {
        let once = cleaned(&text);
        prop_assert_eq!(cleaned(&once), once);
    }

    #[test]
    fn what_is_left_is_tidy(text in texts()) {
        let cleaned = cleaned(&text);
        prop_assert_eq!(cleaned.trim(), cleaned.as_str());
        prop_assert!(!cleaned.contains("\n\n\n") && !cleaned.contains(" \n"));
        let unseen = cleaned.contains(['\r', '\0', '\u{fffd}', '\u{3000}', '\u{200b}']);
        prop_assert!(!unseen);
        prop_assert!(!cleaned.contains("！！") && !cleaned.contains("<br>"));
    }

    /// Words are never touched, only what stands between them.
    #[test]
    fn words_stay(text in texts()) {
        let words = |text: &str| -> String {
            let text = text.replace("<br>", "").replace("&nbsp;", "");
            text.chars().filter(|c| matches!(c, '一' | '丁' | '0'..='9')).collect()
        };
        prop_assert_eq!(words(&cleaned(&text)), words(&text));
    }
}
