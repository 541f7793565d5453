//! The beginning of an article, as long as an answer may be.

/// The first `most` characters, ended at the last end of a sentence where one is in the second half.
pub(crate) fn passage(text: &str, most: usize) -> &str {
    let text = text.trim();
    let Some((end, _)) = text.char_indices().nth(most) else {
        return text;
    };
    let half = text.char_indices().nth(most / 2).map_or(0, |(at, _)| at);
    let ends = |c: char| matches!(c, '。' | '！' | '？' | '；' | '!' | '?' | '\n');
    let closes = |c: char| matches!(c, '”' | '’' | '」' | '』' | '）' | ')' | '"');
    let Some((at, c)) = text[..end].char_indices().rfind(|(_, c)| ends(*c)) else {
        return text[..end].trim_end();
    };
    if at < half {
        return text[..end].trim_end();
    }
    let mut stop = at + c.len_utf8();
    for c in text[stop..end].chars().take_while(|c| closes(*c)) {
        stop += c.len_utf8();
    }
    text[..stop].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_ends_with_a_sentence_where_it_can() {
        assert_eq!(passage(" 一二。\n", 10), "一二。");
        assert_eq!(passage("一二三。四五六。七八九十", 9), "一二三。四五六。");
        assert_eq!(
            passage("他说：“好的。”然后走了，不再回来", 9),
            "他说：“好的。”"
        );
        assert_eq!(passage("一。二三四五六七八九十", 6), "一。二三四五");
        assert_eq!(passage("一二三四五六", 3), "一二三");
    }
}
