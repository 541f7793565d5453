//! Broken inputs: a stop that names file and row, and with `keep_going` all rows that are fine.

use std::fs::{self, File};
use std::io::{BufWriter, Write};

use chatlm_dataset::{InputOptions, Rows};
use chatlm_job::{Code, Error};

use super::{Folder, options, pairs};

fn going() -> InputOptions {
    InputOptions {
        keep_going: true,
        ..options()
    }
}

/// The first error, the numbers of the rows that come nevertheless, and how many were left out.
fn both(paths: &[String]) -> (Option<Error>, Vec<u64>, u64) {
    let error = Rows::open(paths, &options()).unwrap().find_map(Result::err);
    let mut rows = Rows::open(paths, &going()).unwrap();
    let numbers = rows.by_ref().map(|row| row.unwrap().row).collect();
    (error, numbers, rows.broken())
}

/// What is wrong, the bytes, the first broken row, the rows that come, how many do not.
type Case<'a> = (&'a str, &'a [u8], u64, &'a [u64], u64);

#[test]
fn broken_rows_are_named_and_those_around_them_come() {
    let folder = Folder::new();
    let deep = format!(
        "{{\"a\":1}}\n{}1{}\n{{\"a\":2}}\n",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let nested = format!(
        "{{\"a\":1}}\n{{\"a\":{}1{}}}\n{{\"a\":2}}\n",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let cases: [Case<'_>; 14] = [
        (
            "open quote.csv",
            b"a,b\n1,2\n1,\"2\n3,4\n5,6\n",
            1,
            &[0, 2, 3],
            1,
        ),
        ("quote at the end.csv", b"a,b\n1,2\n1,\"2", 1, &[0], 1),
        // The quote of row 1 ends at row 3's, which is fine itself.
        (
            "quote before a quote.csv",
            b"a,b\n1,2\n1,\"2\n3,4\n5,\"6\"\n7,8\n",
            1,
            &[0, 2, 3, 4],
            1,
        ),
        (
            "two open quotes.csv",
            b"a,b\n\"1,2\n3,4\n\"5,6\n7,8\n",
            0,
            &[1, 3],
            2,
        ),
        ("fields.csv", b"a,b\n1,2\n1\n1,2,3\n4,5\n", 1, &[0, 3], 2),
        ("list.jsonl", b"{\"a\":1}\n[1]\n{\"a\":2}\n", 1, &[0, 2], 1),
        (
            "broken.jsonl",
            b"{\"a\":1}\n{\"a\"\n{\"a\":2}\n",
            1,
            &[0, 2],
            1,
        ),
        ("deep.jsonl", deep.as_bytes(), 1, &[0, 2], 1),
        ("nested.jsonl", nested.as_bytes(), 1, &[0, 2], 1),
        (
            "nul.jsonl",
            b"{\"a\":1}\n{\"a\":\"x\0y\"}\n{\"a\":2}\n",
            1,
            &[0, 2],
            1,
        ),
        (
            "surrogate.jsonl",
            b"{\"a\":1}\n{\"a\":\"\\ud800\"}\n{\"a\":2}\n",
            1,
            &[0, 2],
            1,
        ),
        (
            "array.json",
            b"[{\"a\":1},{\"a\" 2},{\"a\":3}]",
            1,
            &[0, 2],
            1,
        ),
        ("cut.json", b"[{\"a\":1},{\"a\":2},{\"a\":", 2, &[0, 1], 1),
        (
            "open text.json",
            b"[{\"a\":1},{\"a\":\"x},{\"a\":3}]",
            1,
            &[0],
            1,
        ),
    ];
    for (name, bytes, row, fine, lost) in cases {
        let (error, numbers, broken) = both(&[folder.put(name, bytes)]);
        let error = error.unwrap_or_else(|| panic!("{name}"));
        assert_eq!(error.code(), Code::InputRow, "{name}: {error}");
        assert_eq!(error.context()["row"], row, "{name}: {error}");
        assert!(error.message().contains(name), "{error}");
        assert_eq!((numbers.as_slice(), broken), (fine, lost), "{name}");
    }
}

#[test]
fn odd_text_is_read() {
    let folder = Folder::new();
    // Enough good text that the broken bytes do not look like another encoding.
    let good = "好".repeat(40);
    let bytes = [good.as_bytes(), b"\xff\xfe\xffx\n"].concat();
    let broken = format!("{good}\u{fffd}\u{fffd}\u{fffd}x");
    let cases: [(&str, &[u8], &[&str]); 6] = [
        ("returns.csv", b"text,b\r1,2\r3,4\r", &["1", "3"]),
        (
            "returns.txt",
            "一\r二\r\r三".as_bytes(),
            &["一", "二", "三"],
        ),
        (
            "returns.jsonl",
            b"{\"text\":\"a\"}\r{\"text\":\"b\"}\r",
            &["a", "b"],
        ),
        ("nul.txt", b"a\0b\nc\n", &["a\0b", "c"]),
        ("bytes.txt", &bytes, &[&broken]),
        ("quotes.csv", b"text,b\na\"b,2\n\"c\"d,4\n", &["a\"b", "cd"]),
    ];
    for (name, bytes, texts) in cases {
        let rows: Vec<_> = Rows::open(&[folder.put(name, bytes)], &options())
            .unwrap()
            .map(|row| row.unwrap().text("text").unwrap().to_owned())
            .collect();
        assert_eq!(rows, texts, "{name}");
    }
}

/// Files of 200 MB, so that holding what is too long would show.
#[test]
fn endless_rows_are_left_behind_at_a_limit() {
    let folder = Folder::new();
    let put = |name: &str, before: &str, filler: &str, after: &str| {
        let mut file = BufWriter::new(File::create(folder.at(name)).unwrap());
        file.write_all(before.as_bytes()).unwrap();
        let piece = filler.repeat((1 << 20) / filler.len());
        for _ in 0..200 {
            file.write_all(piece.as_bytes()).unwrap();
        }
        file.write_all(after.as_bytes()).unwrap();
        file.flush().unwrap();
        folder.name(name)
    };
    let cases = [
        (
            put(
                "long.jsonl",
                "{\"a\":1}\n{\"a\":\"",
                "x",
                "\"}\n{\"a\":2}\n",
            ),
            vec![0, 2],
        ),
        (put("long.txt", "one\n", "x", "\ntwo\n"), vec![0, 2]),
        (
            put("long.json", "[{\"a\":1},{\"a\":\"", "x", "\"},{\"a\":2}]"),
            vec![0, 2],
        ),
        (put("long.csv", "a,b\n1,2\n3,", "x", "\n5,6\n"), vec![0, 2]),
    ];
    for (path, fine) in cases {
        let (error, numbers, broken) = both(std::slice::from_ref(&path));
        let error = error.unwrap();
        assert!(
            error.message().contains("row 1: it is longer than 64 MiB"),
            "{error}"
        );
        assert_eq!((numbers, broken), (fine, 1), "{path}");
        fs::remove_file(path).unwrap();
    }
    // The rows behind the line of a quote that is left open.
    let path = put("quote.csv", "a,b\n1,2\n3,\"x\n", "5,6\n", "");
    let error = Rows::open(std::slice::from_ref(&path), &options())
        .unwrap()
        .find_map(Result::err)
        .unwrap();
    assert!(
        error
            .message()
            .contains("row 1: a quote is opened, and it is longer"),
        "{error}"
    );
    let mut rows = Rows::open(&[path], &going()).unwrap();
    let count = rows.by_ref().flatten().count();
    assert_eq!((count, rows.broken()), (200 * (1 << 18) + 1, 1));
    #[cfg(target_os = "linux")]
    {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        // Other tests run beside this one; a file held whole would be 200 MB more.
        assert!(kib < 700 << 10, "{line}");
    }
}

#[test]
fn broken_tables_are_named_and_the_files_around_them_come() {
    let folder = Folder::new();
    let texts: Vec<String> = (0..20_000)
        .map(|n| format!("{n} {}", n * 7919 % 10_007))
        .collect();
    let rows: Vec<_> = texts
        .iter()
        .map(|t| (Some(t.as_str()), Some(t.as_str())))
        .collect();
    pairs(&folder.at("whole.parquet"), &rows);
    let bytes = fs::read(folder.at("whole.parquet")).unwrap();
    let mut damaged = bytes.clone();
    damaged[2000..9000].fill(0xAB);
    let small = folder.put("small.jsonl", "{\"a\":1}\n");
    for (name, content, lost) in [
        ("cut.parquet", bytes[..bytes.len() / 2].to_vec(), 1),
        // The first row group of 8192 rows is lost, the others come.
        ("damaged.parquet", damaged, 8192),
    ] {
        let inputs = [small.clone(), folder.put(name, content), small.clone()];
        let (error, numbers, broken) = both(&inputs);
        let error = error.unwrap();
        assert_eq!(error.code(), Code::InputFormat, "{name}: {error}");
        assert!(error.message().contains(name), "{error}");
        let rest = if lost == 1 { 0 } else { 20_000 - lost };
        assert_eq!((numbers.len() as u64, broken), (2 + rest, lost), "{name}");
    }
    let mut rows = Rows::open(&[folder.name("whole.parquet")], &options()).unwrap();
    let error = rows.next().unwrap().unwrap().text("question").unwrap_err();
    assert!(error.message().contains("prompt, response"), "{error}");
}
