//! Traditional characters to simplified ones, by OpenCC's dictionaries of characters and phrases.

use std::borrow::Cow;
use std::sync::OnceLock;

use ferrous_opencc::OpenCC;
use ferrous_opencc::config::BuiltinConfig;

/// `t2s` of OpenCC.
pub(crate) fn simplify(text: &str) -> Cow<'_, str> {
    static CONVERTER: OnceLock<Option<OpenCC>> = OnceLock::new();
    // The dictionaries are part of the program: making the converter cannot fail for a user's reason.
    let converter = CONVERTER.get_or_init(|| OpenCC::from_config(BuiltinConfig::T2s).ok());
    match converter {
        Some(converter) if !text.is_ascii() => Cow::Owned(converter.convert(text)),
        _ => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_and_phrases_are_simplified() {
        assert_eq!(
            simplify("漢字轉換：乾坤、乾燥，頭髮發展"),
            "汉字转换：乾坤、干燥，头发发展"
        );
        assert_eq!(simplify("简体 abc"), "简体 abc");
    }
}
