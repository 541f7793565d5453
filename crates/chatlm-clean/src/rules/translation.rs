//! Translation exercises: a small Chinese model learns nothing from them.

use crate::sample::Rule;

/// The words the reference program knows in pre-training data.
const FEW: [&str; 1] = ["翻译"];
/// The words it knows in fine-tuning data; by default they count everywhere.
const ALL: [&str; 7] = ["翻译", "英译", "译英", "中译", "译中", "汉译", "译汉"];

pub fn translation() -> Rule {
    Rule::drop("translation", |sample| is_translation(&sample.prompt, &ALL))
}

pub fn reference_pretrain() -> Rule {
    Rule::drop("translation-compat", |sample| {
        is_translation(&sample.prompt, &FEW)
    })
}

fn is_translation(prompt: &str, words: &[&str]) -> bool {
    words.iter().any(|word| prompt.contains(word)) || prompt.to_lowercase().contains("translate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exercises_are_told_by_their_words() {
        assert!(is_translation("请中译英：你好", &ALL));
        assert!(!is_translation("请中译英：你好", &FEW));
        assert!(is_translation("Translate this", &FEW));
        assert!(!is_translation("解释这句话", &ALL));
    }
}
