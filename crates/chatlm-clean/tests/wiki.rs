//! Dumps made here, whole and broken.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Read;
use std::path::{Path, PathBuf};

use bzip2::Compression;
use bzip2::read::BzEncoder;
use chatlm_clean::{CleanOptions, CleanReport, Purpose, clean, is_wiki, wiki_corpus};
use chatlm_dataset::{InputOptions, Rows};
use chatlm_job::{Code, Job, Result};

const HEAD: &str = "<mediawiki xml:lang=\"zh\"><siteinfo><sitename>W</sitename></siteinfo>";

fn page(title: &str, namespace: u8, text: &str) -> String {
    format!(
        "<page><title>{title}</title><ns>{namespace}</ns><id>1</id><revision><id>2</id><text xml:space=\"preserve\">{text}</text></revision></page>"
    )
}

/// Some pages, of which the first and the last are articles.
fn dump() -> String {
    let pages = [
        page("數學", 0, "'''數學'''是[[研究]]數量&lt;ref&gt;甲&lt;/ref&gt;、結構的{{模板|一}}學科，源於計數。\n\n== 參考文獻 ==\n書"),
        page("Talk", 1, "討論討論討論討論討論討論。"),
        "<page><title>数</title><ns>0</ns><redirect title=\"數學\" /><revision><text>#重定向 [[數學]]</text></revision></page>".to_owned(),
        page("數 (消歧義)", 0, "數可以指很多東西，例如數目。"),
        page("甲", 0, "短"),
        page("A&amp;B", 0, "A&amp;amp;B 是一間公司，成立於 1999 年，資本 25.6 億。"),
    ];
    format!("{HEAD}{}</mediawiki>", pages.concat())
}

fn packed(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = BzEncoder::new(text.as_bytes(), Compression::best());
    encoder.read_to_end(&mut bytes).unwrap();
    bytes
}

fn run(folder: &Path, bytes: &[u8], keep_going: bool) -> (Result<CleanReport>, PathBuf) {
    let input = folder.join("dump");
    std::fs::write(&input, bytes).unwrap();
    let out = folder.join("out.parquet");
    let inputs = vec![input.display().to_string()];
    let mut options = CleanOptions::new(
        "zhwiki".parse().unwrap(),
        Purpose::Pretrain,
        inputs,
        out.clone(),
    );
    options.keep_going = keep_going;
    options.force = true;
    (clean(&options, &Job::quiet()), out)
}

fn responses(path: &Path) -> Vec<String> {
    Rows::open(&[path.display().to_string()], &InputOptions::default())
        .unwrap()
        .map(|row| row.unwrap().text("response").unwrap().to_owned())
        .collect()
}

#[test]
fn a_dump_gives_the_same_rows_in_any_form() {
    let folder = tempfile::tempdir().unwrap();
    let xml = dump();
    let (first, rest) = xml.split_once("<page><title>数</title>").unwrap();
    let many = [
        packed(first),
        packed(&format!("<page><title>数</title>{rest}")),
    ]
    .concat();
    for bytes in [xml.clone().into_bytes(), packed(&xml), many] {
        let (report, out) = run(folder.path(), &bytes, false);
        let report = report.unwrap();
        assert_eq!((report.read, report.kept, report.broken), (6, 2, 0));
        assert_eq!(report.dropped["other-namespace"], 1);
        assert_eq!(report.dropped["redirect"], 1);
        assert_eq!(report.dropped["disambiguation"], 1);
        assert_eq!(report.dropped["short-response"], 1);
        assert_eq!(
            responses(&out),
            [
                "数学是研究数量、结构的学科，源于计数。",
                "A&B 是一间公司，成立于 1999 年，资本 25.6 亿。"
            ]
        );
    }
}

#[test]
fn the_corpus_has_the_lines_of_articles() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (
        folder.path().join("dump.xml"),
        folder.path().join("wiki.txt"),
    );
    std::fs::write(&input, dump()).unwrap();
    let inputs = [input.display().to_string()];
    assert!(is_wiki(&inputs).unwrap());
    let written = wiki_corpus(
        &inputs,
        &InputOptions::default(),
        &output,
        false,
        &Job::quiet(),
    );
    assert_eq!(written.unwrap(), (4, 0));
    let text = std::fs::read_to_string(output).unwrap();
    assert_eq!(
        text.lines().next(),
        Some("数学是研究数量、结构的学科，源于计数。")
    );
}

#[test]
fn broken_dumps_are_named_and_what_came_before_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let xml = dump();
    let cut = &xml[..xml.rfind("<page>").unwrap() + 20];
    let entities = format!("<!DOCTYPE m [<!ENTITY a \"aaaa\">]>{xml}");
    let broken_xml = xml.replace("</revision></page></mediawiki>", "</page></mediawiki>");
    let mut damaged = packed(&xml);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    for (bytes, kept) in [
        (cut.as_bytes().to_vec(), 1),
        (packed(cut), 1),
        (packed(&xml)[..packed(&xml).len() - 20].to_vec(), 0),
        (damaged, 0),
        (entities.into_bytes(), 0),
        (broken_xml.into_bytes(), 1),
        (b"<?xml version=\"1.0\"?><rss><item/></rss>".to_vec(), 0),
    ] {
        let (report, _) = run(folder.path(), &bytes, false);
        let error = report.unwrap_err();
        assert_eq!(error.code(), Code::InputFormat, "{error}");
        assert!(error.message().contains("dump, row"), "{error}");
        let (report, out) = run(folder.path(), &bytes, true);
        let report = report.unwrap();
        assert_eq!((report.kept, report.broken), (kept, 1));
        assert_eq!(responses(&out).len() as u64, kept);
    }
}
