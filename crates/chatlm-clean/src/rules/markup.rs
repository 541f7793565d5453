//! What is left of web pages: `<br>` in its spellings is a newline, `&nbsp;` a space. Other tags and
//! entities stay, since answers about code are full of them.

use std::borrow::Cow;

use crate::sample::Rule;

const NEWLINES: [&str; 4] = ["<br>", "<br/>", "<br />", "</br>"];
const SPACE: &str = "&nbsp;";

pub fn markup() -> Rule {
    Rule::rewrite("markup", plain)
}

pub fn plain(text: &str) -> Cow<'_, str> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&']) {
        let (before, here) = rest.split_at(at);
        let found = NEWLINES
            .iter()
            .map(|tag| (*tag, "\n"))
            .chain([(SPACE, " ")])
            .find(|(sign, _)| {
                here.get(..sign.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(sign))
            });
        let (size, new) = found.map_or((1, &here[..1]), |(sign, new)| (sign.len(), new));
        plain.push_str(before);
        plain.push_str(new);
        rest = &here[size..];
    }
    if plain.is_empty() {
        return Cow::Borrowed(text);
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_are_newlines_and_code_stays() {
        assert_eq!(plain("一<br>二<BR />三&nbsp;四</br>"), "一\n二\n三 四\n");
        assert_eq!(
            plain("a < b && <b>粗</b> &lt;<"),
            "a < b && <b>粗</b> &lt;<"
        );
        assert!(matches!(plain("没有"), Cow::Borrowed(_)));
    }
}
