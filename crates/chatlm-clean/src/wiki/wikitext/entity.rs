//! Character references of HTML.

use quick_xml::escape::resolve_html5_entity;

/// Longest name between `&` and `;`.
const LONGEST: usize = 32;

/// The reference at the start of a text, as what it stands for and its length.
pub(super) fn entity(text: &str) -> Option<(String, usize)> {
    let rest = text.strip_prefix('&')?;
    let end = rest.bytes().take(LONGEST).position(|byte| byte == b';')?;
    let name = &rest[..end];
    let length = end + 2;
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return Some((char::from_u32(code)?.to_string(), length));
    }
    let text = match name {
        "nbsp" | "ensp" | "emsp" | "thinsp" => " ",
        "zwnj" | "zwj" | "shy" | "lrm" | "rlm" => "",
        name => resolve_html5_entity(name)?,
    };
    Some((text.to_owned(), length))
}

/// A text with all references resolved.
pub(in crate::wiki) fn entities(text: &str) -> String {
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        resolved.push_str(&rest[..at]);
        rest = &rest[at..];
        let (text, length) = entity(rest).unwrap_or_else(|| ("&".to_owned(), 1));
        resolved.push_str(&text);
        rest = &rest[length..];
    }
    resolved.push_str(rest);
    resolved
}
