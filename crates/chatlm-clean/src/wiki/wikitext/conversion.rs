//! Language conversion: `-{zh-hans:软件;zh-hant:軟體}-`.

/// Whose text is taken, the best first.
const WANTED: [&str; 7] = [
    "zh-hans", "zh-cn", "zh-sg", "zh-my", "zh", "zh-hant", "zh-tw",
];

/// What a conversion shows in simplified Chinese.
pub(super) fn text(content: &str) -> &str {
    let (flags, content) = match content.split_once('|') {
        Some((flags, content)) if is_flags(flags) => (flags, content),
        _ => ("", content),
    };
    let has = |flag: char| flags.contains(flag);
    // Titles of pages and rules for the rest of it show nothing.
    if has('T') || has('H') || has('-') {
        return "";
    }
    if has('R') {
        return content;
    }
    let best = content
        .split(';')
        .filter_map(|part| {
            // `从=>zh-hans:到` has what it replaces first.
            let part = part.split_once("=>").map_or(part, |(_, to)| to);
            let (code, text) = part.split_once(':')?;
            let rank = WANTED.iter().position(|wanted| *wanted == code.trim())?;
            Some((rank, text.trim()))
        })
        .min_by_key(|(rank, _)| *rank);
    match best {
        Some((_, text)) => text,
        None => content,
    }
}

fn is_flags(flags: &str) -> bool {
    let single = |part: &str| {
        let part = part.trim();
        part.is_empty()
            || matches!(part, "A" | "T" | "R" | "D" | "-" | "H" | "N" | "S" | "E")
            || part.starts_with("zh")
    };
    flags.split(';').all(single)
}
