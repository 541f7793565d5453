//! Csv with broken quotes: the medical dialogue's and the finance questions' readers, mending and as the reference
//! program reads.
#![no_main]

use chatlm_clean::fuzzing::{Reading, Row, decoded, rows, walk};
use chatlm_clean::{CleanOptions, Purpose};
use chatlm_fuzz::{mode, text, written};
use libfuzzer_sys::fuzz_target;

const HEADER: &str = "department,title,ask,answer\n";
/// More lines than a quoted field may reach over.
const BEHIND: usize = 260;
const FINE: &str = "内科,题,问,答\n";

fuzz_target!(|bytes: &[u8]| {
    let (mode, rest) = mode(bytes);
    match mode % 8 {
        0 | 1 => mended(&text(rest)),
        2 => as_written(&text(rest)),
        3 => reference(
            rest,
            "medical-dialogue",
            ["gb2312", "gb18030", "utf-8"][usize::from(mode / 8) % 3],
        ),
        4 => reference(
            rest,
            "finance-qa",
            ["utf-8", "gb18030", "big5"][usize::from(mode / 8) % 3],
        ),
        5 => decoding(rest),
        _ => any(
            rest,
            if mode % 8 == 6 {
                "medical-dialogue"
            } else {
                "finance-qa"
            },
        ),
    }
});

fn options(source: &str, bytes: &[u8]) -> CleanOptions {
    let path = written(bytes, "csv");
    let source = source.parse().expect("it is there");
    CleanOptions::new(source, Purpose::Pretrain, vec![path], "out".into())
}

/// Numbers go up, and what can be said of each row is.
fn sound(read: &Reading, options: &CleanOptions) {
    for (place, pair) in read.rows.windows(2).enumerate() {
        assert!(pair[0].row < pair[1].row, "after row {place}");
    }
    for row in &read.rows {
        assert!(row.fields.values().all(serde_json::Value::is_string));
        if let Ok(samples) = walk(options, row) {
            assert_eq!(samples.len(), 1);
        }
    }
}

/// Any bytes, their encoding detected.
fn any(bytes: &[u8], source: &str) {
    let mut options = options(source, bytes);
    let strict = rows(&options);
    sound(&strict, &options);
    options.keep_going = true;
    let lenient = rows(&options);
    assert!(
        lenient.rows.starts_with(&strict.rows),
        "rows before an error are kept"
    );
    assert!(strict.error.is_some() || lenient.broken == 0);
}

fn cells(row: &Row) -> Vec<&str> {
    row.fields
        .values()
        .filter_map(serde_json::Value::as_str)
        .collect()
}

/// Whatever stands before them, rows far behind are read as they are; no sign that is text is lost.
fn mended(middle: &str) {
    let file = format!("{HEADER}{middle}\n{}", FINE.repeat(BEHIND));
    let mut options = options("medical-dialogue", file.as_bytes());
    options.encoding = Some("utf-8".to_owned());
    let read = rows(&options);
    assert!(read.error.is_none(), "{:?}", read.error);
    sound(&read, &options);
    let last = read.rows.last().expect("there are rows");
    assert_eq!(cells(last), ["内科", "题", "问", "答"]);
    let count = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
    let there: usize = read.rows.iter().flat_map(cells).map(count).sum();
    // A byte order mark inside a text is no letter; all others are kept.
    assert_eq!(there, count(middle) + BEHIND * count(FINE));
    let lines = middle
        .split('\n')
        .filter(|line| !line.trim_end_matches('\r').is_empty())
        .count();
    assert!(read.rows.len() <= lines + BEHIND, "more rows than lines");
}

/// Csv that is well-formed is read as it was written.
fn as_written(text: &str) {
    let mut file = HEADER.to_owned();
    let mut table: Vec<Vec<&str>> = Vec::new();
    for row in text.split('\u{1}') {
        let cells: Vec<&str> = row.split('\u{2}').collect();
        // A quote before a cell's newline may read like the end of a broken one: see `Records` in chatlm-dataset.
        let written: Vec<String> = cells
            .iter()
            .map(|cell| format!("\"{}\"", cell.replace('"', "\"\"")))
            .collect();
        if row.len() > 1 << 19 || row.matches('\n').count() > 200 {
            return;
        }
        file.push_str(&written.join(","));
        file.push_str("\r\n");
        table.push(cells);
    }
    let mut options = options("medical-dialogue", file.as_bytes());
    options.encoding = Some("utf-8".to_owned());
    let read = rows(&options);
    assert!(read.error.is_none() && read.mended == 0, "{read:?}");
    let there: Vec<Vec<&str>> = read.rows.iter().map(cells).collect();
    assert_eq!(there, table);
}

/// The reference program's way: rows are lines, with their ends, of at most five fields.
fn reference(bytes: &[u8], source: &str, encoding: &str) {
    let mut options = options(source, bytes);
    options.compat = true;
    options.encoding = Some(encoding.to_owned());
    let read = rows(&options);
    sound(&read, &options);
    for row in &read.rows {
        let cells = cells(row);
        let newlines: usize = cells.iter().map(|cell| cell.matches('\n').count()).sum();
        assert!((1..=5).contains(&cells.len()) && newlines == 1, "{cells:?}");
        assert!(cells.last().is_some_and(|cell| cell.ends_with('\n')));
    }
    assert!(
        read.error
            .is_none_or(|error| error.message().contains("carriage return"))
    );
}

/// Text is read as it was written; of other bytes none is invented.
fn decoding(bytes: &[u8]) {
    for label in ["gb2312", "gb18030", "utf-8", "big5"] {
        let (text, ignored) = decoded(bytes, label).expect("it is known");
        assert!(
            text.len() <= 3 * bytes.len() && ignored <= bytes.len() as u64,
            "{label}"
        );
        assert!(
            ignored > 0 || bytes.is_empty() || !text.is_empty(),
            "{label}"
        );
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert_eq!(
            decoded(bytes, "utf-8").expect("it is known"),
            (text.to_owned(), 0)
        );
    }
}
