//! Chinese word segmentation for counting words: jieba's dictionary, and its hidden Markov model for what
//! that lacks, as `jieba.cut` of Python does by default.

use jieba_rs::Jieba;

/// Stands before a word that follows a space, as the pipeline writes it.
const SPACE_MARK: char = '▁';

/// Segments texts; any number of threads may use it.
#[derive(Default)]
pub(crate) struct Segmenter(Jieba);

impl Segmenter {
    /// Calls `found` with each word. Words break at characters that are `alone`, which come as words of
    /// their own, and at white space; a word of letters after a space has the mark of one before it.
    pub(crate) fn words(
        &self,
        text: &str,
        alone: impl Fn(char) -> bool,
        mut found: impl FnMut(&str),
    ) {
        let mut marked = String::new();
        let mut spaced = true;
        for token in self.0.cut(text, true) {
            let word = token.word;
            for piece in pieces(word, &alone) {
                if piece.chars().all(char::is_whitespace) {
                    spaced = true;
                    continue;
                }
                // Spaces stand between words of letters; Chinese words have none before them in running text.
                if spaced && piece.starts_with(|c: char| c.is_alphabetic() && !is_chinese(c)) {
                    marked.clear();
                    marked.push(SPACE_MARK);
                    marked.push_str(piece);
                    found(&marked);
                } else {
                    found(piece);
                }
                spaced = false;
            }
        }
    }
}

fn is_chinese(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// The parts of a word: characters that stand alone, white space, and what lies between.
fn pieces(word: &str, alone: impl Fn(char) -> bool) -> Vec<&str> {
    let breaks = |c: char| c.is_whitespace() || alone(c);
    if !word.contains(breaks) {
        return vec![word];
    }
    word.split_inclusive(breaks)
        .flat_map(|piece| match piece.char_indices().next_back() {
            Some((at, c)) if breaks(c) => [&piece[..at], &piece[at..]],
            _ => [piece, ""],
        })
        .filter(|piece| !piece.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let alone = |c: char| c.is_ascii_digit() || "，。-".contains(c);
        Segmenter::default().words(text, alone, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn words_are_those_of_jieba() {
        assert_eq!(
            words("我来到北京清华大学"),
            ["我", "来到", "北京", "清华大学"]
        );
        // Not in the dictionary: found by the model, as `jieba.cut("他来到了网易杭研大厦")` in Python.
        assert_eq!(
            words("他来到了网易杭研大厦"),
            ["他", "来到", "了", "网易", "杭研", "大厦"]
        );
    }

    #[test]
    fn words_break_where_the_pipeline_breaks() {
        assert_eq!(
            words("在2024年，hello world"),
            ["在", "2", "0", "2", "4", "年", "，", "hello", "▁world"]
        );
        assert_eq!(words("Hello 世界"), ["▁Hello", "世界"]);
        assert_eq!(words("well-known"), ["▁well", "-", "known"]);
    }
}
