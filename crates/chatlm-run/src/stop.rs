//! Texts that end an answer: found as its tokens come, and kept out of what is told.

use chatlm_job::Result;
use chatlm_tokenizer::Tokenizer;

/// The end of an answer is before the first of these.
#[derive(Debug, Clone)]
pub(crate) struct Stops {
    texts: Vec<String>,
    /// Tokens in which the longest of them lies whole, some to spare for those without text.
    window: usize,
}

impl Stops {
    pub(crate) fn new(texts: &[String]) -> Self {
        let longest = texts.iter().map(String::len).max().unwrap_or(0);
        Self {
            texts: texts.to_vec(),
            window: longest + 16,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Where the first of the texts begins.
    fn find(&self, text: &str) -> Option<usize> {
        self.texts.iter().filter_map(|stop| text.find(stop)).min()
    }

    /// Whether the text of `tokens` holds one of them, where that of all but the last does not.
    pub(crate) fn reached(&self, tokenizer: &Tokenizer, tokens: &[u32]) -> Result<bool> {
        if self.is_empty() {
            return Ok(false);
        }
        let from = tokens.len().saturating_sub(self.window);
        let near = tokenizer.decode(&tokens[from..])?;
        // A window may cut a character in two; the whole answer tells.
        Ok(self.find(&near).is_some()
            && (from == 0 || self.find(&tokenizer.decode(tokens)?).is_some()))
    }

    /// The text before the first of them.
    pub(crate) fn cut<'t>(&self, text: &'t str) -> &'t str {
        self.find(text).map_or(text, |end| &text[..end])
    }

    /// How many bytes at the end of `text` may be the beginning of one of them.
    fn doubtful(&self, text: &str) -> usize {
        let longest = |stop: &String| {
            let lengths = stop.char_indices().map(|(at, _)| at).rev();
            lengths
                .take_while(|&length| length > 0)
                .find(|&length| text.ends_with(&stop[..length]))
        };
        self.texts.iter().filter_map(longest).max().unwrap_or(0)
    }
}

/// A streamed text that ends before the first of the stops: what might be their beginning waits.
#[derive(Debug)]
pub(crate) struct Held {
    stops: Stops,
    waiting: String,
    ended: bool,
}

impl Held {
    pub(crate) fn new(stops: Stops) -> Self {
        Self {
            stops,
            waiting: String::new(),
            ended: false,
        }
    }

    /// Takes a piece; gives what is certain now.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        if self.ended {
            return String::new();
        }
        self.waiting.push_str(piece);
        if let Some(end) = self.stops.find(&self.waiting) {
            self.ended = true;
            self.waiting.truncate(end);
            return std::mem::take(&mut self.waiting);
        }
        let certain = self.waiting.len() - self.stops.doubtful(&self.waiting);
        self.waiting.drain(..certain).collect()
    }

    /// What waited, where nothing more comes.
    pub(crate) fn finish(&mut self) -> String {
        self.ended = true;
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(texts: &[&str]) -> Stops {
        Stops::new(&texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>())
    }

    /// However a text falls into pieces, the same comes out, and never more than belongs there.
    #[test]
    fn pieces_end_where_the_whole_text_does() {
        let texts = [
            "甲乙丙丁乙丙戊",
            "aab\n\nb",
            "乙丙乙丙戊己",
            "",
            "甲甲甲",
            "aaab",
        ];
        let all = [
            &["乙丙戊"][..],
            &["\n\n"],
            &["aab", "甲甲"],
            &["丁", "乙丙"],
            &[],
        ];
        for text in texts {
            for stop in all {
                let stops = stops(stop);
                let want = stops.cut(text);
                let places: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).collect();
                for mask in 0..1usize << places.len() {
                    let (mut held, mut told, mut from) =
                        (Held::new(stops.clone()), String::new(), 0);
                    for (bit, &at) in places.iter().enumerate() {
                        if mask >> bit & 1 == 1 {
                            told += &held.push(&text[from..at]);
                            assert!(want.starts_with(&told));
                            from = at;
                        }
                    }
                    told += &held.push(&text[from..]);
                    told += &held.finish();
                    assert_eq!(told, want, "{text:?} {stop:?}");
                }
            }
        }
    }
}
