//! Repeated punctuation. By default a sign repeated is written once; the reference program keeps the
//! first sign of any run of signs, counts `s`, backslash and newline as signs and writes a comma for
//! every space, which `--compat` repeats.

use std::borrow::Cow;

use crate::sample::Rule;

pub fn repeats() -> Rule {
    Rule::rewrite("punctuation", once)
}

/// How often a sign may stand in a row.
fn most(c: char) -> usize {
    match c {
        '！' | '？' | '。' | '，' | '、' | '；' | '：' | '～' | '!' | '?' | ',' => 1,
        '…' | '—' => 2,
        '.' => 3,
        _ => usize::MAX,
    }
}

/// `！！！` becomes `！`, `......` becomes `...`. Signs of code (`==`, `--`, `::`, `//`) stay, and so
/// do different signs in a row (`。”`, `？！`).
pub fn once(text: &str) -> Cow<'_, str> {
    let mut cleaned: Option<String> = None;
    let (mut before, mut count) = ('\0', 0);
    for (at, c) in text.char_indices() {
        count = if before == c { count + 1 } else { 1 };
        before = c;
        let keep = count == 1 || count <= most(c);
        match &mut cleaned {
            Some(cleaned) if keep => cleaned.push(c),
            None if !keep => {
                let mut start = String::with_capacity(text.len());
                start.push_str(&text[..at]);
                cleaned = Some(start);
            }
            _ => {}
        }
    }
    cleaned.map_or(Cow::Borrowed(text), Cow::Owned)
}

pub fn reference() -> Rule {
    Rule::rewrite("punctuation-compat", keep_first)
}

/// What the reference program counts as punctuation.
fn is_sign(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c, 's' | '\n')
        || "×—‘’“”…●、。《》【】！（），：；？～￥".contains(c)
}

/// The reference program's way: half- and full-width spaces to `，`, then the first sign of each run.
pub fn keep_first(text: &str) -> Cow<'_, str> {
    let mut cleaned = String::with_capacity(text.len());
    let mut before = false;
    for c in text.chars() {
        let c = if matches!(c, ' ' | '\u{3000}') {
            '，'
        } else {
            c
        };
        let sign = is_sign(c);
        if !(sign && before) {
            cleaned.push(c);
        }
        before = sign;
    }
    Cow::Owned(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_sign_is_written_once() {
        assert_eq!(once("好！！！是吗？？，，"), "好！是吗？，");
        assert_eq!(once("等等......然后………"), "等等...然后……");
        assert_eq!(
            once("class, success. a == b -- c::d"),
            "class, success. a == b -- c::d"
        );
        assert_eq!(once("他说：“好。”《甲》《乙》"), "他说：“好。”《甲》《乙》");
    }

    #[test]
    fn the_reference_keeps_the_first_of_a_run_and_thinks_s_a_sign() {
        assert_eq!(keep_first("class, success.涨"), "clasucces涨");
        assert_eq!(keep_first("4. 规划"), "4.规划");
        assert_eq!(
            keep_first(" SOUL EATER》《x。\ny\nz"),
            "，SOUL，EATER》x。y\nz"
        );
    }
}
