//! Reading, writing, joining and splitting tables; the loader.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]
#![expect(clippy::format_collect, reason = "small inputs, written to be read")]

mod bad;
mod loader;

use std::fs;
use std::path::{Path, PathBuf};

use chatlm_dataset::{
    Cell, ColumnKind, InputOptions, Rows, TableWriter, corpus, expand, inspect, merge, split, texts,
};
use chatlm_job::{Code, Error, Job};
use proptest::prelude::*;
use serde_json::json;

/// A folder that goes with the test.
pub struct Folder(tempfile::TempDir);

impl Default for Folder {
    fn default() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Folder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn name(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.at(name), bytes).unwrap();
        self.name(name)
    }
}

pub fn options() -> InputOptions {
    InputOptions::default()
}

/// A parquet file of prompts and responses.
pub fn pairs(target: &Path, rows: &[(Option<&str>, Option<&str>)]) {
    let columns = [("prompt", ColumnKind::Text), ("response", ColumnKind::Text)];
    let mut table = TableWriter::create(target, &columns, true).unwrap();
    for (prompt, response) in rows {
        table
            .push(&[
                prompt.map_or(Cell::Null, Cell::Text),
                response.map_or(Cell::Null, Cell::Text),
            ])
            .unwrap();
    }
    table.finish().unwrap();
}

fn read(path: &str) -> Vec<serde_json::Value> {
    Rows::open(&[path.to_owned()], &options())
        .unwrap()
        .map(|row| serde_json::Value::Object(row.unwrap().fields))
        .collect()
}

fn failure(path: &str) -> Error {
    match Rows::open(&[path.to_owned()], &options()) {
        Err(error) => error,
        Ok(rows) => {
            let mut rows = rows;
            rows.find_map(Result::err).unwrap()
        }
    }
}

#[test]
fn every_format_gives_the_same_rows() {
    let folder = Folder::new();
    let expected = [
        json!({"prompt": "你好，\"世界\"", "response": "一\n二"}),
        json!({"prompt": "b", "response": "三"}),
    ];
    pairs(
        &folder.at("a.parquet"),
        &[
            (Some("你好，\"世界\""), Some("一\n二")),
            (Some("b"), Some("三")),
        ],
    );
    let lines = expected
        .iter()
        .map(|row| format!("{row}\n"))
        .collect::<String>();
    folder.put("a.jsonl", &lines);
    folder.put("a.json", serde_json::to_string_pretty(&expected).unwrap());
    folder.put(
        "pretty.json",
        expected
            .iter()
            .map(|r| format!("{r:#}\n"))
            .collect::<String>(),
    );
    folder.put(
        "a.csv",
        "prompt,response\r\n\"你好，\"\"世界\"\"\",\"一\n二\"\r\nb,三\r\n",
    );
    folder.put(
        "a.tsv",
        "prompt\tresponse\n\"你好，\"\"世界\"\"\"\t\"一\n二\"\nb\t三",
    );
    // Content counts, not the name.
    folder.put("lines.txt", &lines);
    fs::copy(folder.at("a.parquet"), folder.at("parquet.txt")).unwrap();
    fs::copy(folder.at("a.csv"), folder.at("csv.dat")).unwrap();
    for name in [
        "a.parquet",
        "a.jsonl",
        "a.json",
        "pretty.json",
        "a.csv",
        "a.tsv",
        "lines.txt",
        "parquet.txt",
        "csv.dat",
    ] {
        assert_eq!(read(&folder.name(name)), expected, "{name}");
    }
    let text = folder.put("a.txt", "第一行\r\n\n  \n第二行");
    assert_eq!(
        read(&text),
        [json!({"text": "第一行"}), json!({"text": "第二行"})]
    );
    for name in ["empty.jsonl", "empty.csv", "empty.txt"] {
        assert!(read(&folder.put(name, "")).is_empty());
    }
}

#[test]
fn encodings_are_detected_and_named() {
    let folder = Folder::new();
    let text = "prompt,response\n高血压患者能吃党参吗？,可以\n沒事,㐀没事\n";
    let wide = |little: bool, mark: bool| -> Vec<u8> {
        let mark = mark.then_some('\u{FEFF}').into_iter().collect::<String>();
        (mark + text)
            .encode_utf16()
            .flat_map(|unit| {
                if little {
                    unit.to_le_bytes()
                } else {
                    unit.to_be_bytes()
                }
            })
            .collect()
    };
    let gb = encoding_rs::GB18030.encode(text).0.into_owned();
    for (name, bytes) in [
        ("utf8", text.as_bytes().to_vec()),
        ("bom", [b"\xEF\xBB\xBF", text.as_bytes()].concat()),
        ("gb18030", gb.clone()),
        ("le", wide(true, true)),
        ("be", wide(false, true)),
        ("le-plain", wide(true, false)),
        ("be-plain", wide(false, false)),
    ] {
        let rows = read(&folder.put(&format!("{name}.csv"), bytes));
        assert_eq!(rows[0]["prompt"], "高血压患者能吃党参吗？", "{name}");
        assert_eq!(
            rows[1],
            json!({"prompt": "沒事", "response": "㐀没事"}),
            "{name}"
        );
    }
    let path = folder.name("gb18030.csv");
    let with = |label: &str| InputOptions {
        encoding: Some(label.to_owned()),
        keep_going: false,
    };
    let row = Rows::open(std::slice::from_ref(&path), &with("gb2312"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(row.text("response").unwrap(), "可以");
    let error = Rows::open(std::slice::from_ref(&path), &with("klingon"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.code(), Code::Usage);
    let mut rows = Rows::open(&[path], &with("utf-8")).unwrap();
    assert!(rows.by_ref().all(|row| row.is_ok()));
    assert!(rows.undecodable() > 10);
}

#[test]
fn rows_are_counted_over_all_inputs() {
    let folder = Folder::new();
    folder.put("b.jsonl", "{\"a\":1}\n{\"a\":2}\n");
    folder.put("a.csv", "a\n0\n");
    folder.put("c.jsonl", "{\"a\":3}\n{\"a\"\n{\"a\":5}\n");
    folder.put("notes.md", "not data");
    folder.put(".hidden.csv", "a\n9\n");
    for inputs in [
        vec![folder.name("")],
        vec![folder.name("*.csv"), folder.name("[bc].jsonl")],
        vec![
            folder.name("a.csv"),
            folder.name("b.jsonl"),
            folder.name("c.jsonl"),
        ],
    ] {
        let rows: Vec<_> = Rows::open(&inputs, &options()).unwrap().collect();
        let numbers: Vec<u64> = rows.iter().flatten().map(|row| row.row).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        let error = rows[4].as_ref().unwrap_err();
        assert_eq!(
            (error.code(), &error.context()["row"]),
            (Code::InputRow, &json!(4))
        );
        assert!(error.message().contains("c.jsonl, row 4"), "{error}");
        assert_eq!(rows.len(), 5);
        let going = InputOptions {
            keep_going: true,
            ..options()
        };
        let mut rows = Rows::open(&inputs, &going).unwrap();
        let numbers: Vec<u64> = rows.by_ref().map(|row| row.unwrap().row).collect();
        assert_eq!((numbers, rows.broken()), (vec![0, 1, 2, 3, 5], 1));
    }
    for missing in ["nowhere.jsonl", "*.parquet", "nowhere"] {
        let error = expand(&[folder.name(missing)]).unwrap_err();
        assert_eq!(error.code(), Code::InputNotFound, "{missing}");
    }
    assert_eq!(expand(&[]).unwrap_err().code(), Code::InputNotFound);
    assert_eq!(expand(&["-".to_owned()]).unwrap(), [PathBuf::from("-")]);
}

#[test]
fn broken_files_are_named_with_their_row() {
    let folder = Folder::new();
    let whole = folder.at("whole.parquet");
    let rows: Vec<String> = (0..20_000)
        .map(|n| format!("row number {n} {}", n * 7919 % 10_007))
        .collect();
    let rows: Vec<_> = rows
        .iter()
        .map(|r| (Some(r.as_str()), Some(r.as_str())))
        .collect();
    pairs(&whole, &rows);
    let bytes = fs::read(&whole).unwrap();
    let mut damaged = bytes.clone();
    damaged[2000..9000].fill(0xAB);
    let mut footer = bytes.clone();
    let length = footer.len();
    footer[length - 60..length - 8].fill(0xFF);
    for (name, content) in [
        ("cut.parquet", bytes[..bytes.len() / 2].to_vec()),
        ("head.parquet", b"PAR1".to_vec()),
        ("empty.parquet", Vec::new()),
        ("garbage.parquet", b"hello world, this is no table".to_vec()),
        ("damaged.parquet", damaged),
        ("footer.parquet", footer),
    ] {
        let error = failure(&folder.put(name, content));
        assert_eq!(error.code(), Code::InputFormat, "{name}: {error}");
        assert!(error.message().contains(name), "{error}");
        assert!(!error.help().is_empty());
    }
    for (name, content, row) in [
        ("list.jsonl", "{\"a\":1}\n[1]\n", 1),
        ("cut.jsonl", "{\"a\":1}\n{\"a\":\"x", 1),
        ("cut.json", "[{\"a\":1},{\"a\":2},{\"a\":", 2),
        ("end.json", "[{\"a\":1},{\"a\":2}", 2),
        ("bad.json", "[{\"a\":1},{\"a\" 2},{\"a\":3}]", 1),
        ("text.jsonl", "no json\n", 0),
        ("fields.csv", "a,b\n1,2\n1,2,3\n", 1),
        ("few.csv", "a,b\n1\n", 0),
        ("quote.csv", "a,b\n1,2\n1,\"2\n3,4\n", 1),
    ] {
        let error = failure(&folder.put(name, content));
        assert_eq!(error.code(), Code::InputRow, "{name}: {error}");
        assert_eq!(error.context()["row"], json!(row), "{name}");
        assert!(error.message().contains(name), "{error}");
    }
    let error = failure(&folder.put("twice.csv", "a,a\n1,2\n"));
    assert_eq!(error.code(), Code::InputFormat);
    let ragged = Rows::open(&[folder.name("fields.csv")], &options())
        .unwrap()
        .ragged(true);
    assert_eq!(
        ragged
            .map(|row| row.unwrap().fields.len())
            .collect::<Vec<_>>(),
        [2, 3]
    );
}

#[test]
fn a_missing_field_is_named_with_what_is_there() {
    let folder = Folder::new();
    let path = folder.put(
        "a.jsonl",
        "{\"question\":\"q\",\"score\":3,\"none\":null}\n",
    );
    let row = Rows::open(&[path], &options())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(row.text("question").unwrap(), "q");
    for (field, words) in [
        ("prompt", "question, score, none"),
        ("score", "a number"),
        ("none", "null"),
    ] {
        let error = row.text(field).unwrap_err();
        assert_eq!(error.code(), Code::InputRow);
        assert_eq!(error.context()["field"], field);
        assert!(
            error.message().contains(words) && error.message().contains("row 0"),
            "{error}"
        );
    }
}

#[test]
fn tables_hold_every_kind_of_cell() {
    let folder = Folder::new();
    let columns = [
        ("t", ColumnKind::Text),
        ("n", ColumnKind::Int64),
        ("x", ColumnKind::Float64),
    ];
    for name in ["a.parquet", "a.jsonl"] {
        let mut table = TableWriter::create(&folder.at(name), &columns, false).unwrap();
        table
            .push(&[Cell::Text("文"), Cell::Int64(-3), Cell::Float64(0.5)])
            .unwrap();
        table.push(&[Cell::Null, Cell::Null, Cell::Null]).unwrap();
        assert!(table.push(&[Cell::Null]).is_err());
        assert!(!folder.at(name).exists());
        assert_eq!(table.finish().unwrap(), 2);
        let rows = read(&folder.name(name));
        assert_eq!(rows[0], json!({"t": "文", "n": -3, "x": 0.5}), "{name}");
        assert_eq!(rows[1], json!({"t": null, "n": null, "x": null}), "{name}");
        let error = TableWriter::create(&folder.at(name), &columns, false)
            .err()
            .unwrap();
        assert_eq!(error.code(), Code::TargetExists);
        let empty = TableWriter::create(&folder.at(name), &columns, true).unwrap();
        assert_eq!(empty.finish().unwrap(), 0);
        assert!(read(&folder.name(name)).is_empty());
    }
    let error = TableWriter::create(&folder.at("a.csv"), &columns, false)
        .err()
        .unwrap();
    assert_eq!(error.code(), Code::Usage);
}

/// Runs itself once more under a file-size limit, which ends writes as a full disk does.
#[cfg(unix)]
#[test]
fn a_full_disk_is_called_so() {
    const LIMITED: &str = "CHATLM_TEST_LIMITED_FOLDER";
    if let Some(folder) = std::env::var_os(LIMITED) {
        for name in ["a.parquet", "a.jsonl"] {
            let target = Path::new(&folder).join(name);
            let mut table =
                TableWriter::create(&target, &[("t", ColumnKind::Text)], false).unwrap();
            let mut random = chatlm_job::Random::new(1);
            let mut push = || -> Result<u64, Error> {
                for _ in 0..200_000 {
                    table.push(&[Cell::Text(&format!("{:x}", random.bits()))])?;
                }
                Ok(0)
            };
            let error = push().unwrap_err();
            assert_eq!(error.code(), Code::DiskFull, "{error}");
        }
        return;
    }
    let folder = Folder::new();
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact a_full_disk_is_called_so";
    let status = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(LIMITED, folder.name(""))
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(
        fs::read_dir(folder.at("")).unwrap().count(),
        0,
        "nothing half-written is left"
    );
}

#[test]
fn merge_joins_columns_and_rows() {
    let folder = Folder::new();
    folder.put(
        "1.jsonl",
        "{\"prompt\":\"a\",\"n\":1}\n{\"prompt\":\"b\",\"n\":2.5}\n",
    );
    folder.put("2.csv", "prompt,response\nc,d\n");
    pairs(&folder.at("3.parquet"), &[(Some("e"), None)]);
    let inputs = ["1.jsonl", "2.csv", "3.parquet"].map(|name| folder.name(name));
    let out = folder.at("all.parquet");
    assert_eq!(
        merge(&inputs, &options(), &out, false, &Job::quiet())
            .unwrap()
            .rows,
        4
    );
    assert_eq!(
        read(&folder.name("all.parquet")),
        [
            json!({"prompt": "a", "n": 1.0, "response": null}),
            json!({"prompt": "b", "n": 2.5, "response": null}),
            json!({"prompt": "c", "n": null, "response": "d"}),
            json!({"prompt": "e", "n": null, "response": null}),
        ]
    );
    let error = merge(&inputs, &options(), &out, false, &Job::quiet()).unwrap_err();
    assert_eq!(error.code(), Code::TargetExists);
    folder.put("4.jsonl", "{\"a\":1}\nbroken\n");
    let inputs = [folder.name("2.csv"), folder.name("4.jsonl")];
    let out = folder.at("none.parquet");
    let error = merge(&inputs, &options(), &out, false, &Job::quiet()).unwrap_err();
    assert_eq!(error.context()["row"], json!(2));
    let job = Job::quiet();
    job.cancel.cancel();
    folder.put("long.txt", "a line\n".repeat(5000));
    let error = merge(&[folder.name("long.txt")], &options(), &out, false, &job).unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
    assert!(!out.exists());
    let left = fs::read_dir(folder.at("")).unwrap().flatten();
    assert!(
        left.into_iter()
            .all(|entry| !entry.file_name().to_string_lossy().contains("partial"))
    );
}

#[test]
fn split_draws_by_seed_and_loses_nothing() {
    let folder = Folder::new();
    let lines: String = (0..4000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let input = [folder.put("a.jsonl", lines)];
    let run = |out: &str, shares: [f64; 3], seed: u64| {
        split(
            &input,
            &options(),
            &folder.at(out),
            shares,
            seed,
            false,
            &Job::quiet(),
        )
    };
    let counts = run("one", [0.91, 0.0025, 0.0875], 23333).unwrap();
    assert_eq!(
        (counts.rows, counts.train + counts.valid + counts.test),
        (4000, 4000)
    );
    assert!((3580..3700).contains(&counts.train), "{counts:?}");
    assert!((1..30).contains(&counts.valid), "{counts:?}");
    let mut all: Vec<i64> = ["train", "valid", "test"]
        .iter()
        .flat_map(|name| read(&folder.name(&format!("one/{name}.parquet"))))
        .map(|row| row["n"].as_i64().unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..4000).collect::<Vec<_>>());
    assert_eq!(run("two", [0.91, 0.0025, 0.0875], 23333).unwrap(), counts);
    assert_eq!(
        fs::read(folder.at("one/train.parquet")).unwrap(),
        fs::read(folder.at("two/train.parquet")).unwrap()
    );
    assert_ne!(run("three", [0.91, 0.0025, 0.0875], 1).unwrap(), counts);
    let counts = run("four", [0.5, 0.0, 0.0], 1).unwrap();
    assert!(
        (1850..2150).contains(&counts.train) && counts.test == 0,
        "{counts:?}"
    );
    assert_eq!(
        run("five", [0.9, 0.2, 0.0], 1).unwrap_err().code(),
        Code::Usage
    );
    let error = run("one", [0.9, 0.1, 0.0], 1).unwrap_err();
    assert_eq!(error.code(), Code::TargetExists);
}

#[test]
fn corpus_and_texts_feed_a_tokenizer() {
    let folder = Folder::new();
    pairs(
        &folder.at("a.parquet"),
        &[(Some("问"), Some("答")), (Some("二"), Some("三"))],
    );
    folder.put("b.txt", "维基\n百科\n");
    let inputs = ["a.parquet", "b.txt"].map(|name| folder.name(name));
    let out = folder.at("corpus.txt");
    assert_eq!(
        corpus(&inputs, &options(), &out, false, &Job::quiet())
            .unwrap()
            .rows,
        4
    );
    assert_eq!(
        fs::read_to_string(&out).unwrap(),
        "问[SEP]答[SEP]\n二[SEP]三[SEP]\n维基\n百科\n"
    );
    let all: Vec<String> = texts(&inputs, &options())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(all, ["问", "答", "二", "三", "维基", "百科"]);
    folder.put("c.jsonl", "{\"prompt\":\"x\"}\n");
    let error = corpus(
        &[folder.name("c.jsonl")],
        &options(),
        &folder.at("c.txt"),
        false,
        &Job::quiet(),
    );
    assert_eq!(error.unwrap_err().code(), Code::InputRow);
    assert!(!folder.at("c.txt").exists());
}

#[test]
fn inspect_counts_and_shows() {
    let folder = Folder::new();
    let lines: String = (0..100)
        .map(|n| format!("{{\"t\":\"{}\",\"n\":{n}}}\n", "字".repeat(n)))
        .collect();
    let found = inspect(
        &[folder.put("a.jsonl", lines)],
        &options(),
        3,
        &Job::quiet(),
    )
    .unwrap();
    assert_eq!((found.rows, found.samples.len()), (100, 3));
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(
        json["columns"],
        json!([{"name": "t", "kind": "text"}, {"name": "n", "kind": "int64"}])
    );
    let lengths = &json["lengths"][0];
    assert_eq!(
        (&lengths["min"], &lengths["max"], &lengths["mean"]),
        (&json!(0), &json!(99), &json!(49.5))
    );
    let sum: u64 = found.lengths[0]
        .buckets
        .iter()
        .map(|bucket| bucket.rows)
        .sum();
    assert_eq!((sum, found.lengths[0].buckets[0].up_to), (100, 8));
    assert_eq!(lengths["buckets"][0], json!({"upTo": 8, "rows": 9}));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_written_is_read(rows in prop::collection::vec(prop::option::of("(\\PC|[\n\r\t\"]){0,20}"), 0..30)) {
        let folder = Folder::new();
        for name in ["a.parquet", "a.jsonl"] {
            let mut table =
                TableWriter::create(&folder.at(name), &[("t", ColumnKind::Text)], false).unwrap();
            for row in &rows {
                table.push(&[row.as_deref().map_or(Cell::Null, Cell::Text)]).unwrap();
            }
            table.finish().unwrap();
            let back: Vec<Option<String>> = read(&folder.name(name))
                .iter()
                .map(|row| row["t"].as_str().map(str::to_owned))
                .collect();
            prop_assert_eq!(&back, &rows);
        }
    }
}

/// The folder of real samples, where it is there.
pub fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("CHATLM_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    if folder.join("data").is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: there is no {}", folder.display());
    None
}

#[test]
fn real_samples_are_read() {
    let Some(shared) = shared() else { return };
    for (name, rows, field) in [
        ("chatlm/my_train_dataset_3k.parquet", 3000, "prompt"),
        (
            "alpaca_zh/carbonz0_zh-data-part-00.json",
            10_021,
            "instruction",
        ),
        ("belle/eval_set.json", 1000, "question"),
        (
            "medical_toyhom/内科_sample_first5000_gb18030.csv",
            5000,
            "ask",
        ),
        ("baike_qa2019/keras_baike_qa_train.csv", 100, "ques"),
        ("cdial/toy_train.txt", 10_000, "text"),
        ("thucnews_titles/dev.txt", 10_000, "text"),
    ] {
        let path = shared.join("data").join(name).display().to_string();
        let mut all = Rows::open(&[path], &options()).unwrap();
        let mut count = 0;
        for row in all.by_ref() {
            let row = row.unwrap();
            assert!(row.text(field).is_ok(), "{name}: {row:?}");
            count += 1;
        }
        assert_eq!((count, all.undecodable()), (rows, 0), "{name}");
    }
}

/// Tables of the same columns are copied as they are; the rows are those of the slower way.
#[test]
fn tables_are_copied_by_columns() {
    let folder = Folder::new();
    let texts: Vec<String> = (0..20_000).map(|n| format!("row {n}")).collect();
    let table = |name: &str, from: usize, to: usize| {
        let rows: Vec<_> = texts[from..to]
            .iter()
            .map(|text| (Some(text.as_str()), (text.len() % 3 > 0).then_some("答")))
            .collect();
        pairs(&folder.at(name), &rows);
        folder.name(name)
    };
    let inputs = [
        table("a.parquet", 0, 12_345),
        table("b.parquet", 12_345, 20_000),
    ];
    let keep_going = InputOptions {
        keep_going: true,
        ..options()
    };
    let job = Job::quiet();
    for ending in ["parquet", "jsonl"] {
        let outs = ["copied", "read"].map(|name| format!("{name}.{ending}"));
        for (out, options) in outs.iter().zip([options(), keep_going.clone()]) {
            let written = merge(&inputs, &options, &folder.at(out), false, &job).unwrap();
            assert_eq!((written.rows, written.broken), (20_000, 0));
        }
        assert_eq!(read(&folder.name(&outs[0])), read(&folder.name(&outs[1])));
    }
    let shares = [0.5, 0.25, 0.1];
    for (out, options) in ["copied", "read"].iter().zip([options(), keep_going]) {
        let counts = split(&inputs, &options, &folder.at(out), shares, 7, false, &job).unwrap();
        assert_eq!(counts.rows, 20_000);
        assert!(counts.train > 9000 && counts.train + counts.valid + counts.test < 20_000);
    }
    for part in ["train", "valid", "test"] {
        let rows = |out: &str| read(&folder.name(&format!("{out}/{part}.parquet")));
        assert_eq!(rows("copied"), rows("read"));
    }
}
