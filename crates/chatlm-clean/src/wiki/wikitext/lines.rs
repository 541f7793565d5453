//! What is left of an article, line by line.

/// Sections of lists and links, where the text of an article is over.
const LAST: [&str; 22] = [
    "参考文献",
    "參考文獻",
    "参考资料",
    "參考資料",
    "参考书目",
    "參考書目",
    "参考",
    "參考",
    "注释",
    "註釋",
    "注解",
    "註解",
    "脚注",
    "腳註",
    "外部链接",
    "外部連結",
    "外部鏈接",
    "参见",
    "參見",
    "延伸阅读",
    "延伸閱讀",
    "相关条目",
];

/// Lines without marks of lists, headings and what templates left empty; one empty line between paragraphs
/// at most.
pub(super) fn tidy(text: &str) -> String {
    let mut tidied = String::with_capacity(text.len());
    let mut gap = false;
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() {
            gap = true;
            continue;
        }
        if let Some(heading) = heading(line) {
            if LAST.contains(&heading) {
                break;
            }
            gap = true;
            continue;
        }
        let line = line.trim_start_matches(['*', '#', ':', ';', ' ', '\u{3000}']);
        let line = brackets(line);
        let line = line.trim();
        if line.is_empty() || !line.chars().any(char::is_alphanumeric) || line.starts_with("----") {
            continue;
        }
        if !tidied.is_empty() {
            tidied.push_str(if gap { "\n\n" } else { "\n" });
        }
        gap = false;
        tidied.push_str(line);
    }
    tidied
}

fn heading(line: &str) -> Option<&str> {
    let inner = line.strip_prefix('=')?.strip_suffix('=')?;
    Some(inner.trim_matches('=').trim())
}

/// Takes out brackets around nothing and the signs that templates in brackets leave at their ends.
fn brackets(line: &str) -> String {
    let opens = |c: char| matches!(c, '（' | '(' | '《' | '「' | '“' | '[' | '【');
    let closes = |open: char, c: char| {
        matches!(
            (open, c),
            ('（' | '(', '）' | ')')
                | ('《', '》')
                | ('「', '」')
                | ('“', '”')
                | ('[', ']')
                | ('【', '】')
        )
    };
    let loose = |c: char| {
        matches!(
            c,
            ' ' | '，' | ',' | '、' | '；' | ';' | '：' | ':' | '\u{3000}'
        )
    };
    let mut cleaned = String::with_capacity(line.len());
    // Where the last bracket stands, if nothing but loose signs came since.
    let mut open: Option<(usize, char)> = None;
    for c in line.chars() {
        match open {
            Some((at, bracket)) if closes(bracket, c) => {
                cleaned.truncate(at);
                open = None;
                continue;
            }
            Some((at, bracket)) if loose(c) => {
                // `（，` and `（；` are left where a template was first.
                cleaned.truncate(at + bracket.len_utf8());
                continue;
            }
            _ => {}
        }
        if matches!(c, '）' | ')') {
            let end = cleaned
                .trim_end_matches(|c: char| loose(c) && c != ' ')
                .len();
            cleaned.truncate(end);
        }
        open = opens(c).then_some((cleaned.len(), c));
        cleaned.push(c);
    }
    cleaned
}
