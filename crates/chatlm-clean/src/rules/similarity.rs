//! Two fields that say the same: Dice's coefficient of their sets of characters.

/// 2·|A∩B| / (|A|+|B|); 0 where both are empty.
pub fn dice(a: &str, b: &str) -> f64 {
    let (a, b) = (characters(a), characters(b));
    if a.is_empty() && b.is_empty() {
        return 0.0;
    }
    let (mut at, mut shared) = (0, 0usize);
    for c in &a {
        at += b[at..].iter().take_while(|other| *other < c).count();
        shared += usize::from(b.get(at) == Some(c));
    }
    2.0 * shared as f64 / (a.len() + b.len()) as f64
}

/// The different characters of a text in order: quicker than hashing them.
fn characters(text: &str) -> Vec<char> {
    let mut characters: Vec<char> = text.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    characters
}

/// Which of two texts stands for both where they say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Same {
    First,
    Second,
    Longer,
}

/// One of the texts where the two say the same (0.90 and above), else both joined.
pub fn join(first: &str, second: &str, same: Same) -> String {
    if dice(first, second) < 0.90 {
        return format!("{first}{second}");
    }
    let longer = first.chars().count() > second.chars().count();
    match same {
        Same::First => first.to_owned(),
        Same::Longer if longer => first.to_owned(),
        Same::Second | Same::Longer => second.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_the_same_is_said_once() {
        assert!((dice("甲乙丙", "甲乙丁") - 2.0 / 3.0).abs() < 1e-12);
        assert!(dice("", "").abs() < 1e-12);
        assert_eq!(
            join("高血压怎么办", "怎么办，高血压？怎么办", Same::Second),
            "高血压怎么办怎么办，高血压？怎么办"
        );
        assert_eq!(
            join(
                "一二三四五六七八九十",
                "十九八七六五四三二一？",
                Same::Second
            ),
            "十九八七六五四三二一？"
        );
    }

    #[test]
    fn which_of_two_alike_is_the_sources_choice() {
        let (short, long) = ("一二三四五六七八九十", "一二三四五六七八九十。");
        assert_eq!(join(long, short, Same::First), long);
        assert_eq!(join(long, short, Same::Second), short);
        assert_eq!(join(long, short, Same::Longer), long);
        assert_eq!(join(short, long, Same::Longer), long);
    }
}
