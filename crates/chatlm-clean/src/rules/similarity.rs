//! Two fields that say the same: Dice's coefficient of their sets of characters.

use std::collections::HashSet;

/// 2·|A∩B| / (|A|+|B|); 0 where both are empty.
pub fn dice(a: &str, b: &str) -> f64 {
    let (a, b): (HashSet<char>, HashSet<char>) = (a.chars().collect(), b.chars().collect());
    if a.is_empty() && b.is_empty() {
        return 0.0;
    }
    2.0 * a.intersection(&b).count() as f64 / (a.len() + b.len()) as f64
}

/// The second text where the two say the same (0.90 and above), else both joined.
pub fn join(title: &str, text: &str) -> String {
    if dice(title, text) >= 0.90 {
        text.to_owned()
    } else {
        format!("{title}{text}")
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
            join("高血压怎么办", "怎么办，高血压？怎么办"),
            "高血压怎么办怎么办，高血压？怎么办"
        );
        assert_eq!(
            join("一二三四五六七八九十", "十九八七六五四三二一？"),
            "十九八七六五四三二一？"
        );
    }
}
