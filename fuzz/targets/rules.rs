//! The rules of all sources on any prompts and answers, and rows of JSON lines as each source reads them.
#![no_main]

use std::borrow::Cow;
use std::sync::OnceLock;

use chatlm_clean::fuzzing::{rows, walk};
use chatlm_clean::rules::{characters, markup, newline, punctuation, similarity, spaces};
use chatlm_clean::{CleanOptions, Purpose, Source, Turns};
use chatlm_fuzz::{mode, text, written};
use chatlm_job::Code;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mode, rest) = mode(bytes);
    let ways = ways();
    match mode % 3 {
        0 => texts(&text(rest)),
        1 => samples(&text(rest)),
        _ => {
            let (which, rest) = chatlm_fuzz::mode(rest);
            lines(&ways[usize::from(which) % ways.len()], rest);
        }
    }
});

/// Every source for every purpose, mended and as the reference program has it.
fn ways() -> &'static [CleanOptions] {
    static WAYS: OnceLock<Vec<CleanOptions>> = OnceLock::new();
    WAYS.get_or_init(|| {
        let mut ways = Vec::new();
        for source in Source::all() {
            for purpose in Purpose::ALL {
                for (compat, turns) in [
                    (false, Turns::First),
                    (false, Turns::Each),
                    (true, Turns::First),
                ] {
                    if source.check(purpose, compat).is_ok() {
                        let mut options =
                            CleanOptions::new(source, purpose, Vec::new(), "out".into());
                        (options.compat, options.turns) = (compat, turns);
                        ways.push(options);
                    }
                }
            }
        }
        ways
    })
}

type Rewrite = fn(&str) -> Cow<'_, str>;

/// What rewrites, on one text: what is promised to change nothing the second time does not.
fn texts(text: &str) {
    let tidying: [(&str, Rewrite); 4] = [
        ("characters", characters::clean),
        ("spaces", spaces::tidy),
        ("punctuation", punctuation::once),
        ("punctuation-compat", punctuation::keep_first),
    ];
    for (name, rewrite) in tidying {
        let once = rewrite(text);
        assert_eq!(rewrite(&once), once, "{name} twice");
        let count = |text: &str| text.chars().count();
        assert!(count(&once) <= count(text), "{name} adds characters");
    }
    for rewrite in [markup::plain, newline::real] {
        assert!(rewrite(text).len() <= text.len());
    }
    let words = |text: &str| {
        text.chars()
            .filter(|c| c.is_alphanumeric())
            .collect::<String>()
    };
    assert_eq!(
        words(&spaces::tidy(text)),
        words(text),
        "spaces takes words"
    );
    assert_eq!(
        words(&punctuation::once(text)),
        words(text),
        "punctuation takes words"
    );
    let middle = (0..=text.len() / 2)
        .rev()
        .find(|at| text.is_char_boundary(*at));
    let (first, second) = text.split_at(middle.unwrap_or(0));
    let alike = similarity::dice(first, second);
    assert!((0.0..=1.0).contains(&alike) && alike == similarity::dice(second, first));
}

/// Two texts in every row that a source may have.
fn samples(text: &str) {
    let (prompt, answer) = text.split_once('\u{1}').unwrap_or((text, text));
    let row = serde_json::json!({
        "title": prompt, "desc": "", "content": answer, "star": 9, "answer": answer, "ask": prompt, "department": "科",
        "INSTRUCTION": prompt, "RESPONSE": answer, "instruction": prompt, "input": "", "output": answer,
        "prompt": prompt, "reply": answer, "is_best": "1", "response": answer, "chosen": answer,
        "rejected": prompt, "text": answer, "markup": true, "namespace": 0, "redirect": false,
    });
    let mut row = chatlm_clean::fuzzing::Row {
        file: "fuzz".into(),
        row: 0,
        fields: row.as_object().cloned().expect("an object"),
    };
    for options in ways() {
        if options.source.as_str() == "sharegpt" {
            let turns = serde_json::json!([{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]);
            row.fields.insert("conversations".to_owned(), turns);
        } else {
            row.fields.remove("conversations");
        }
        passed(options, &row);
    }
}

/// What came through the rules is as they leave it.
fn passed(options: &CleanOptions, row: &chatlm_clean::fuzzing::Row) {
    let samples = match walk(options, row) {
        Ok(samples) => samples,
        Err(error) => {
            assert_eq!(error.code(), Code::InputRow, "{error}");
            return;
        }
    };
    let rules = options
        .source
        .rules(options.purpose, options.compat)
        .expect("it was checked");
    for (sample, fell) in samples {
        if let Some(rule) = fell {
            assert!(rules.contains(&rule));
            continue;
        }
        let answers = if options.purpose == Purpose::Dpo {
            2
        } else {
            1
        };
        assert_eq!(sample.answers.len(), answers);
        for text in sample.texts() {
            let still = |rule: &str, rewrite: Rewrite| {
                assert!(
                    !rules.contains(&rule) || rewrite(text) == text,
                    "{rule} of {options:?}: {text:?}"
                );
            };
            still("characters", characters::clean);
            still("spaces", spaces::tidy);
            still("punctuation", punctuation::once);
            still("punctuation-compat", punctuation::keep_first);
            assert!(
                options.compat || !text.trim().is_empty(),
                "{options:?} keeps a blank text"
            );
        }
    }
}

/// A file of JSON lines, as a source reads and cleans it.
fn lines(options: &CleanOptions, bytes: &[u8]) {
    let mut options = options.clone();
    options.inputs = vec![written(bytes, "jsonl")];
    let strict = rows(&options);
    options.keep_going = true;
    let lenient = rows(&options);
    assert!(
        lenient.rows.starts_with(&strict.rows),
        "rows before an error are kept"
    );
    if let Some(error) = &strict.error {
        assert!(
            [Code::InputRow, Code::InputFormat].contains(&error.code()),
            "{error}"
        );
    }
    for row in &lenient.rows {
        passed(&options, row);
    }
}
