//! What a link leaves.

/// Namespaces whose pages are shown in place or filed under, not linked to.
const DROPPED: [&str; 20] = [
    "file", "image", "media", "category", "template", "文件", "檔案", "档案", "图像", "圖像",
    "图片", "圖片", "媒体", "媒體", "分类", "分類", "模板", "t", "cat", "special",
];

/// Prefixes of other projects.
const PROJECTS: [&str; 14] = [
    "wikt",
    "wiktionary",
    "wikipedia",
    "w",
    "s",
    "q",
    "b",
    "n",
    "v",
    "d",
    "c",
    "m",
    "commons",
    "meta",
];

/// The text of `[[target]]` or `[[target|…|label]]`; `label` is `None` where there is no bar.
pub(super) fn text<'a>(target: &'a str, label: Option<&'a str>) -> &'a str {
    let trimmed = target.trim();
    // A colon before it makes a plain link of any page.
    let (page, plain) = match trimmed.strip_prefix(':') {
        Some(page) => (page, true),
        None => (trimmed, false),
    };
    let prefix = page.split_once(':').map(|(prefix, _)| prefix.trim());
    if let Some(prefix) = prefix.filter(|_| !plain) {
        let lower = prefix.to_lowercase();
        let dropped = DROPPED.contains(&lower.as_str());
        if dropped || (is_language(&lower) && label.is_none()) {
            return "";
        }
    }
    match label {
        Some(label) if !label.trim().is_empty() => label,
        // `[[页面 (消歧义)|]]` hides what is in brackets, and a prefix.
        Some(_) => without_brackets(without_prefix(page, prefix)),
        None => {
            let page = page.split_once('#').map_or(page, |(page, _)| page);
            if plain {
                without_prefix(page, prefix)
            } else {
                page
            }
        }
    }
}

fn without_prefix<'a>(page: &'a str, prefix: Option<&str>) -> &'a str {
    let known = prefix.is_some_and(|prefix| {
        let lower = prefix.to_lowercase();
        is_language(&lower)
            || PROJECTS.contains(&lower.as_str())
            || DROPPED.contains(&lower.as_str())
    });
    match page.split_once(':') {
        Some((_, rest)) if known => rest,
        _ => page,
    }
}

fn without_brackets(page: &str) -> &str {
    let page = page.trim_end();
    let open = page
        .rfind(['(', '（'])
        .filter(|_| page.ends_with([')', '）']));
    open.map_or(page, |open| page[..open].trim_end())
}

/// `en`, `zh-yue`, `be-tarask`, `simple`.
fn is_language(prefix: &str) -> bool {
    let mut parts = prefix.split('-');
    let first = parts.next().unwrap_or_default();
    let letters = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase());
    first == "simple"
        || (matches!(first.len(), 2 | 3)
            && letters(first)
            && parts.all(|part| !part.is_empty() && letters(part)))
}
