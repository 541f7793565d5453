use std::time::Instant;

use proptest::prelude::*;

use super::plain;

#[test]
fn constructs_become_their_text() {
    for (wikitext, expected) in [
        (
            "'''数学'''是''研究''数量的[[学科]]。",
            "数学是研究数量的学科。",
        ),
        (
            "[[北京市|北京]]和[[上海#历史]]、[[水星 (行星)|]]",
            "北京和上海、水星",
        ),
        ("甲{{lang|en|x{{y|{{z}}}}}}乙", "甲乙"),
        (
            "{{Infobox\n| 名 = [[甲]]\n| 图 = [[File:a.jpg|thumb|x]]\n}}\n正文。",
            "正文。",
        ),
        ("甲{{{1|默认}}}乙{{a|{{{2}}}}}丙", "甲乙丙"),
        (
            "前\n{| class=\"wikitable\"\n|-\n| a || b\n{| \n| 内\n|}\n|}\n后",
            "前\n\n后",
        ),
        (
            "人<ref name=\"a\">[http://x y]</ref>口<ref name=b />多<REF>z</Ref>。",
            "人口多。",
        ),
        (
            "[[File:a.jpg|thumb|一张[[图]]的说明]]正文[[Category:甲]][[en:A]][[分類:乙]]",
            "正文",
        ),
        ("[[:Category:数学]]与[[:en:Math]]", "数学与Math"),
        ("见[http://a.b 网站]和[http://a.b]。", "见网站和。"),
        (
            "-{zh-hans:软件;zh-hant:軟體}-和-{zh-tw:網路; zh-cn:网络;}-",
            "软件和网络",
        ),
        ("-{T|zh-hans:题;zh-hant:題}--{R|原樣}--{乾}-", "原樣乾"),
        ("-{A|zh-cn:内存;zh-tw:-{記憶體}-}-", "内存"),
        ("-{H|x=>zh-cn:y}-甲", "甲"),
        (
            "甲<!-- 注 -->乙<br/>丙<nowiki>[[丁]]</nowiki><math>x^2</math>",
            "甲乙\n丙[[丁]]",
        ),
        (
            "1 &lt; 2 &amp;&nbsp;3&#x4e2d;&#22269;&unknown;",
            "1 < 2 & 3中国&unknown;",
        ),
        ("__NOTOC__甲__乙_", "甲__乙_"),
        (
            "== 历史 ==\n* 一\n# 二\n:三\n\n== 参考文献 ==\n* 书",
            "一\n二\n三",
        ),
        (
            "甲（{{lang|la|X}}，乙）（{{x}}）、（；丙，）",
            "甲（乙）、（丙）",
        ),
        ("it's ''a'''b'''''", "it's ab"),
        ("{{未闭合\n正文一。", "未闭合\n正文一。"),
        ("[[未闭合\n\n正文[[二]]。", "未闭合\n\n正文二。"),
        ("甲{|不是表", "甲{|不是表"),
        ("a]] b}} c|d -{ e", "a]] b}} c|d  e"),
        (
            "<div style=\"a\">甲</div><gallery>\nFile:x|y\n</gallery>乙",
            "甲乙",
        ),
    ] {
        assert_eq!(plain(wikitext), expected, "{wikitext:?}");
    }
}

#[test]
fn hostile_text_takes_linear_time() {
    let most = 1_000_000;
    for piece in [
        "{{", "}}", "{{{", "[[", "]]", "[[a|", "-{", "}-", "{|\n", "\n|}", "<ref>", "<math>",
        "<!--", "'''", "&", "&amp", "__", "[http://", "<a", "（", "（，", "=", "\n\n[[", "{{[[-{",
        "]", "<nowiki>",
    ] {
        let text = piece.repeat(most);
        let start = Instant::now();
        let short = plain(&text[..text.len() / 8]);
        let eighth = start.elapsed();
        let start = Instant::now();
        drop(plain(&text));
        let whole = start.elapsed();
        drop(short);
        // Eight times the text; quadratic time would be 64 times, and the machine may be busy.
        assert!(
            whole.as_secs_f64() < 30.0 * eighth.as_secs_f64() + 1.0,
            "{piece:?}: {eighth:?} {whole:?}"
        );
    }
}

#[test]
fn what_lies_inside_each_other_takes_linear_time() {
    for (open, close) in [
        ("[[a|", "]]"),
        ("[[", "]]"),
        ("-{", "}-"),
        ("-{zh-hans:a;zh-hant:b;", "}-"),
        ("[http://a b", "]"),
        ("[[-{[//a ", "]}-]]"),
        ("{{[[a|", "]]}}"),
    ] {
        let nested = |times: usize| {
            let text = "甲".repeat(times);
            format!("{}{text}{}", open.repeat(times), close.repeat(times))
        };
        let start = Instant::now();
        drop(plain(&nested(10_000)));
        let tenth = start.elapsed();
        let start = Instant::now();
        drop(plain(&nested(100_000)));
        let whole = start.elapsed();
        assert!(
            whole.as_secs_f64() < 30.0 * tenth.as_secs_f64() + 1.0,
            "{open:?}: {tenth:?} {whole:?}"
        );
    }
    // As deep as anybody writes it is read as ever.
    let deep = format!("{}甲{}", "[[a|".repeat(60), "]]".repeat(60));
    assert_eq!(plain(&deep), "甲");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_makes_it_panic(text in "(\\PC|\\{\\{|\\}\\}|\\[\\[|\\]\\]|-\\{|\\}-|\\{\\||\\|\\}|\n|<ref>|</ref>|<!--|-->|''|\\||:|&lt;|__|=){0,60}") {
        plain(&text);
    }

    #[test]
    fn balanced_markup_leaves_no_signs(parts in prop::collection::vec(0usize..8, 0..20)) {
        let wikitext: String = parts.iter().map(|part| [
            "正文", "{{模板|[[甲]]|{{乙}}}}", "[[丙|丁]]", "-{zh-hans:戊;zh-hant:己}-", "<ref>[[庚]]</ref>",
            "'''辛'''", "[[File:x.jpg|thumb|[[壬]]]]", "\n{|\n| [[癸]]\n|}\n",
        ][*part]).collect();
        let text = plain(&wikitext);
        prop_assert!(!text.contains(['{', '}', '[', ']', '|', '<', '\'']), "{text:?}");
    }

    #[test]
    fn plain_text_stays(lines in prop::collection::vec("[一-龥a-z0-9]{1,12}。", 1..6)) {
        let text = lines.join("\n");
        prop_assert_eq!(plain(&text), text);
    }
}
