//! Wikitext to plain text, simplified characters, and the reference program's way with a line.
#![no_main]

use chatlm_clean::fuzzing::{passage, reference_line, simplified, wikitext};
use chatlm_fuzz::{mode, text, within};
use libfuzzer_sys::fuzz_target;

/// Bytes of a long text made of a short one.
const LONG: usize = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let (mode, rest) = mode(bytes);
    match mode % 16 {
        // What is linear in the length takes a few milliseconds.
        14 => grown(&text(rest), |start, _| {
            start.repeat(LONG / start.len().max(1))
        }),
        15 => grown(&text(rest), |start, end| {
            let times = LONG / (start.len() + end.len()).max(1);
            format!(
                "{}{}{}",
                start.repeat(times),
                "甲".repeat(LONG / 3),
                end.repeat(times)
            )
        }),
        _ => page(&text(rest)),
    }
});

fn page(source: &str) {
    let plain = wikitext(source);
    // No reference of HTML stands for more bytes than it has but a few rare ones, which double.
    assert!(plain.len() <= 2 * source.len(), "longer than its source");
    assert_eq!(plain, plain.trim(), "blanks around it");
    assert!(!plain.contains("\n\n\n"), "two empty lines");
    for line in plain.lines() {
        assert!(
            line.is_empty() || line.chars().any(char::is_alphanumeric),
            "a line of signs: {line:?}"
        );
    }
    let simple = simplified(&plain);
    assert!(simple.len() <= 4 * plain.len());
    if plain.is_ascii() {
        assert_eq!(simple, plain, "ascii has nothing to simplify");
    }
    for most in [1, 10, 512] {
        let start = passage(&simple, most);
        assert!(start.chars().count() <= most && simple.contains(start));
    }
    for line in source.split_inclusive('\n').take(64) {
        let cleaned = reference_line(line);
        assert!(
            !cleaned.contains([' ', '\u{3000}', ',', ';']),
            "a sign is left: {cleaned:?}"
        );
        assert!(cleaned.len() <= 4 * line.len().max(1));
    }
}

/// A text made of two parts of a short one is done in time.
fn grown(text: &str, grow: fn(&str, &str) -> String) {
    let middle = (0..=text.len() / 2)
        .rev()
        .find(|at| text.is_char_boundary(*at));
    let (start, end) = text.split_at(middle.unwrap_or(0));
    let (start, end) = if end.is_empty() {
        (text, "")
    } else {
        (start, end)
    };
    let long = grow(start, end);
    within(150, || {
        wikitext(&long);
    });
}
