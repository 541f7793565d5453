//! docs/cleaning.md names every source with its rules in order, and tells every rule.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chatlm_clean::{Purpose, Source};

/// The names in backquotes of a text.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The parts under headings of the third level whose name stands in backquotes.
fn parts(chapter: &str) -> BTreeMap<&str, &str> {
    let parts = chapter.split("\n### ").skip(1);
    parts
        .filter_map(|part| {
            let (heading, text) = part.split_once('\n')?;
            Some((heading.strip_prefix('`')?.strip_suffix('`')?, text))
        })
        .collect()
}

#[test]
fn the_page_and_the_code_have_the_same_sources_and_rules() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cleaning.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, page) = page.split_once("\n## Sources\n").unwrap();
    let (sources, page) = page.split_once("\n## Rules\n").unwrap();
    let (rules, _) = page.split_once("\n## ").unwrap();
    let (sources, rules) = (parts(sources), parts(rules));

    let mut names = BTreeSet::new();
    for source in Source::all() {
        let told = sources.get(source.as_str());
        let told = told.unwrap_or_else(|| panic!("the page lacks {}", source.as_str()));
        let lines = told.lines().filter(|line| line.starts_with("| `"));
        let told: BTreeMap<String, Vec<&str>> = lines
            .map(|line| {
                let mut quoted = quoted(line);
                (quoted.remove(0).to_owned(), quoted)
            })
            .collect();
        let mut there = BTreeMap::new();
        for purpose in Purpose::ALL {
            for (compat, flag) in [(false, ""), (true, " --compat")] {
                if let Ok(rules) = source.rules(purpose, compat) {
                    names.extend(rules.clone());
                    there.insert(format!("{}{flag}", purpose.as_str()), rules);
                }
            }
        }
        assert_eq!(told, there, "{}", source.as_str());
    }
    assert_eq!(sources.len(), Source::all().count());
    assert_eq!(rules.keys().copied().collect::<BTreeSet<_>>(), names);
    for (rule, text) in rules {
        assert!(text.contains("| --- |"), "{rule} has no table");
    }
}
