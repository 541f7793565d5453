//! The whole run over files, the default way.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use chatlm_clean::{CleanOptions, Purpose, Source, Turns, clean};
use chatlm_dataset::{InputOptions, Row, Rows};
use chatlm_job::{Code, Job};

struct Case {
    folder: tempfile::TempDir,
    options: CleanOptions,
}

/// A cleaning of one file of these bytes.
fn case(source: &str, purpose: Purpose, name: &str, bytes: impl AsRef<[u8]>) -> Case {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join(name);
    std::fs::write(&input, bytes).unwrap();
    let inputs = vec![input.display().to_string()];
    let output = folder.path().join("out.parquet");
    let mut options = CleanOptions::new(source.parse().unwrap(), purpose, inputs, output);
    options.rejects = Some(folder.path().join("rejects.jsonl"));
    Case { folder, options }
}

fn read(path: &Path) -> Vec<Row> {
    let paths = [path.display().to_string()];
    Rows::open(&paths, &InputOptions::default())
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

impl Case {
    fn texts(&self, names: &[&str]) -> Vec<Vec<String>> {
        clean(&self.options, &Job::quiet()).unwrap();
        let texts = |row: Row| {
            names
                .iter()
                .map(|n| row.text(n).unwrap().to_owned())
                .collect()
        };
        read(&self.options.output).into_iter().map(texts).collect()
    }

    fn pairs(&self) -> Vec<Vec<String>> {
        self.texts(&["prompt", "response"])
    }

    fn fails(&self) -> chatlm_job::Error {
        let error = clean(&self.options, &Job::quiet()).unwrap_err();
        let left: Vec<PathBuf> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert_eq!(left.len(), 1, "only the input may be there: {left:?}");
        error
    }
}

#[test]
fn alpaca_joins_instruction_and_input() {
    let case = case(
        "alpaca",
        Purpose::Sft,
        "a.json",
        r#"[{"instruction": "改写句子", "input": "我很 好", "output": "class,  success！！"},
            {"instruction": "空", "input": null, "output": " "},
            {"instruction": "问", "output": "答"}]"#,
    );
    // Alpaca answers keep their punctuation.
    assert_eq!(
        case.pairs(),
        [["改写句子，我很 好", "class, success！！"], ["问", "答"]]
    );
}

#[test]
fn dropped_rows_keep_their_columns_and_say_why() {
    let case = case(
        "belle",
        Purpose::Pretrain,
        "b.json",
        "{\"instruction\": \"翻译\", \"input\": \"\", \"output\": \"hello world\", \"n\": 1}\n\
         {\"instruction\": \"好的问题\", \"input\": \"说明\", \"output\": \"足够长的回答\"}\n\
         {\"instruction\": \"短\", \"output\": \"短\", \"rule\": \"x\"}\n",
    );
    let report = clean(&case.options, &Job::quiet()).unwrap();
    assert_eq!((report.read, report.kept), (3, 1));
    assert_eq!(report.dropped["translation"], 1);
    assert_eq!(report.dropped["short-response"], 1);
    assert_eq!(report.dropped["table"], 0);
    let rejects = read(case.options.rejects.as_ref().unwrap());
    let fields: Vec<String> = rejects
        .iter()
        .map(|row| {
            ["instruction", "n", "source_rule", "rule", "row"]
                .map(|n| row.fields[n].to_string())
                .join(" ")
        })
        .collect();
    assert_eq!(
        fields,
        [
            r#""翻译" 1 null "translation" 0"#,
            r#""短" null "x" "short-response" 2"#,
        ]
    );
    assert!(rejects[0].text("file").unwrap().ends_with("b.json"));
    assert_eq!(
        read(&case.options.output)[0].text("prompt").unwrap(),
        "好的问题，说明"
    );
}

#[test]
fn medical_dialogue_is_read_as_what_it_is() {
    // GB18030 with characters that gb2312 lacks, a newline in a field, an answer with bare commas, a short row.
    let text = "department,title,ask,answer\n\
        内科,頭痛怎么办？,\"头痛\n两天了\",\"多喝水——注意休息，如不好转\r\n请及时到医院就诊。\"\n\
        内科,高血压能喝酒吗,高血压能喝酒吗？,不能喝酒,要按时吃药,还要少吃盐并且多运动\n\
        内科,只有标题\n\
        内科,问题是,什么,太短\n";
    let bytes: Vec<u8> = gb18030(text);
    let case = case("medical-dialogue", Purpose::Pretrain, "m.csv", bytes);
    assert_eq!(
        case.pairs(),
        [
            [
                "頭痛怎么办？头痛\n两天了",
                "多喝水——注意休息，如不好转\n请及时到医院就诊。"
            ],
            [
                "高血压能喝酒吗？",
                "不能喝酒，要按时吃药，还要少吃盐并且多运动"
            ],
        ]
    );
    let rules: Vec<String> = read(case.options.rejects.as_ref().unwrap())
        .iter()
        .map(|row| row.text("rule").unwrap().to_owned())
        .collect();
    assert_eq!(rules, ["few-columns", "short-response"]);
}

fn gb18030(text: &str) -> Vec<u8> {
    encoding_rs::GB18030.encode(text).0.into_owned()
}

#[test]
fn pairs_take_named_columns() {
    let mut case = case(
        "pairs",
        Purpose::Sft,
        "p.csv",
        "问,答,x\n床前,\"月　光 \",1\n,空,2\n",
    );
    case.options.prompt_column = Some("问".into());
    case.options.response_column = Some("答".into());
    assert_eq!(case.pairs(), [["床前", "月 光"]]);
}

#[test]
fn preference_pairs_from_columns_and_from_alpaca() {
    let mut pairs = case(
        "rlhf-pairs",
        Purpose::Dpo,
        "r.jsonl",
        "{\"prompt\": \"问\", \"good\": \"甲\\\\n乙\", \"rejected\": \"丙\"}\n\
         {\"prompt\": \"问\", \"good\": \"同\", \"rejected\": \"同 \"}\n",
    );
    pairs.options.chosen_column = Some("good".into());
    assert_eq!(
        pairs.texts(&["prompt", "chosen", "rejected"]),
        [["问", "甲\n乙", "丙"]]
    );

    let alpaca = case(
        "alpaca",
        Purpose::Dpo,
        "a.json",
        r#"[{"instruction": "问", "input": "", "output": ["好", "坏"]},
            {"instruction": "问", "input": "", "chosen": "上", "reject": "下"}]"#,
    );
    let expected = [["问", "好", "坏"], ["问", "上", "下"]];
    assert_eq!(alpaca.texts(&["prompt", "chosen", "rejected"]), expected);

    let plain = "{\"instruction\": \"问\", \"input\": \"\", \"output\": \"答\"}\n";
    let error = case("alpaca", Purpose::Dpo, "a.jsonl", plain).fails();
    assert_eq!(error.code(), Code::InputRow);
    assert!(error.help().contains("chatlm reject"));
}

#[test]
fn a_row_without_a_prompt_is_named_or_counted() {
    let text = "{\"response\": \"答\"}\n{\"prompt\": \"问\", \"response\": \"答\"}\n";
    let mut case = case("pairs", Purpose::Sft, "p.jsonl", text);
    let error = case.fails();
    assert_eq!(error.code(), Code::InputRow);
    assert!(
        error.message().contains("p.jsonl, row 0"),
        "{}",
        error.message()
    );
    assert_eq!(error.context()["field"], "prompt");
    case.options.keep_going = true;
    let report = clean(&case.options, &Job::quiet()).unwrap();
    assert_eq!((report.read, report.kept, report.broken), (2, 1, 1));
}

#[test]
fn wrong_usage_is_refused_before_anything_is_read() {
    let with = |source, purpose, change: &dyn Fn(&mut CleanOptions)| {
        let mut case = case(source, purpose, "x.jsonl", "no json");
        change(&mut case.options);
        case.fails().code()
    };
    assert_eq!(with("belle", Purpose::Dpo, &|_| ()), Code::Usage);
    assert_eq!(with("rlhf-pairs", Purpose::Sft, &|_| ()), Code::Usage);
    assert_eq!(
        with("sharegpt", Purpose::Sft, &|o| o.compat = true),
        Code::Usage
    );
    assert_eq!(
        with("alpaca", Purpose::Sft, &|o| o.prompt_column =
            Some("p".into())),
        Code::Usage
    );
    assert_eq!(
        with("alpaca", Purpose::Sft, &|o| o.rejects =
            Some(o.output.clone())),
        Code::Usage
    );
    assert_eq!(
        with("pairs", Purpose::Sft, &|o| o.rejects = Some("r.csv".into())),
        Code::Usage
    );
    assert_eq!(
        with("pairs", Purpose::Sft, &|o| o.output = (&o.inputs[0]).into()),
        Code::TargetExists
    );
    assert_eq!(
        with("alpaca", Purpose::Sft, &|o| o.turns = Turns::Each),
        Code::Usage
    );
    assert_eq!(
        with("belle", Purpose::Sft, &|o| o.report =
            Some(o.output.clone())),
        Code::Usage
    );
    assert!(
        "wiki"
            .parse::<Source>()
            .unwrap_err()
            .help()
            .contains("medical-dialogue")
    );
}

/// A table of these questions and answers.
fn parquet(path: &Path, rows: usize) {
    use chatlm_dataset::{Cell, ColumnKind, TableWriter};
    let columns = ["INSTRUCTION", "RESPONSE"].map(|name| (name, ColumnKind::Text));
    let mut table = TableWriter::create(path, &columns, true).unwrap();
    for row in 0..rows {
        let answer = format!("这是第{row}个回答，写得足够长。");
        let cells = [Cell::Text("怎么看待早起？"), Cell::Text(&answer)];
        table.push(&cells).unwrap();
    }
    table.finish().unwrap();
}

#[test]
fn broken_rows_are_named_or_passed_over_in_every_format() {
    let row = |text: &str| format!("{{\"title\": \"问题在此\", \"answer\": \"{text}\"}}");
    let answer = row("这是一个足够长的回答，留得下来。");
    let cut = &answer[..answer.len() - 5];
    for (name, bytes, place, kept) in [
        ("a.jsonl", format!("{answer}\n{cut}\n{answer}\n"), 1, 2),
        ("b.jsonl", format!("{answer}\n3\n{answer}\n"), 1, 2),
        ("c.jsonl", format!("{{\"x\": 1}}\n{answer}\n"), 0, 1),
        (
            "d.json",
            format!("[{answer},\n{{\"title\" 1}},\n{answer}]"),
            1,
            2,
        ),
        ("e.json", format!("[{answer}, {answer}, {cut}"), 2, 2),
        (
            "f.csv",
            "title,answer\n问题在此,一个逗号,两个\n问题在此,这是一个足够长的回答，留得下来。\n"
                .to_owned(),
            0,
            1,
        ),
        (
            "g.csv",
            "title,answer\n问题在此,这是一个足够长的回答，留得下来。\n问题,\"没有合上".to_owned(),
            1,
            1,
        ),
    ] {
        let mut case = case("baike-qa2019", Purpose::Pretrain, name, bytes);
        let error = case.fails();
        assert_eq!(error.code(), Code::InputRow, "{name}");
        let named = format!("{name}, row {place}");
        assert!(error.message().contains(&named), "{}", error.message());
        assert_eq!(error.context()["row"], place);
        case.options.keep_going = true;
        let report = clean(&case.options, &Job::quiet()).unwrap();
        assert_eq!((report.kept, report.broken), (kept, 1), "{name}");
        assert_eq!(report.read, report.kept + report.broken);
    }
}

#[test]
fn a_file_cut_short_does_not_take_the_others_with_it() {
    let mut case = case("zhihu-kol", Purpose::Pretrain, "b.parquet", "");
    let at = |name: &str| case.folder.path().join(name);
    for name in ["a.parquet", "b.parquet", "c.parquet"] {
        parquet(&at(name), 3);
    }
    let whole = std::fs::read(at("b.parquet")).unwrap();
    std::fs::write(at("b.parquet"), &whole[..whole.len() / 2]).unwrap();
    case.options.inputs = vec![case.folder.path().display().to_string()];
    case.options.output = at("out/out.parquet");
    case.options.rejects = None;
    let error = clean(&case.options, &Job::quiet()).unwrap_err();
    assert_eq!(error.code(), Code::InputFormat);
    assert!(error.message().contains("b.parquet"), "{}", error.message());
    case.options.keep_going = true;
    let report = clean(&case.options, &Job::quiet()).unwrap();
    assert_eq!((report.read, report.kept, report.broken), (7, 6, 1));
}

#[test]
fn nothing_depends_on_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.csv");
    let mut text = "department,title,ask,answer\n".to_owned();
    for row in 0..3000 {
        let line = match row % 5 {
            0 => format!("内科,第{row}问,怎么办？？,太短"),
            1 => format!("内科,第{row}问"),
            2 => format!("内科,第{row}问,\"怎么\n办\",多喝水，好好休息，三天以后就好了。"),
            3 => format!("内科,第{row}问,\"怎么办,多喝水，好好休息，{row}天以后就好了！！"),
            _ => format!("内科,第{row}问,怎么　办,\"多喝水，\r好好休息，{row}天以后就好了。\""),
        };
        text.push_str(&line);
        text.push('\n');
    }
    std::fs::write(&input, gb18030(&text)).unwrap();
    let results = [1, 2, 5].map(|threads| {
        let at = |name: &str| folder.path().join(format!("{threads}-{name}"));
        let inputs = vec![input.display().to_string()];
        let source = "medical-dialogue".parse().unwrap();
        let mut options = CleanOptions::new(source, Purpose::Pretrain, inputs, at("o.parquet"));
        options.rejects = Some(at("r.parquet"));
        options.report = Some(at("r.json"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let report = pool
            .build()
            .unwrap()
            .install(|| clean(&options, &Job::quiet()));
        let report = report.unwrap();
        assert_eq!((report.read, report.kept), (3000, 1800));
        ["o.parquet", "r.parquet", "r.json"].map(|name| std::fs::read(at(name)).unwrap())
    });
    assert!(results[0] == results[1] && results[1] == results[2]);
    let report: serde_json::Value = serde_json::from_slice(&results[0][2]).unwrap();
    assert_eq!(report["mended"], 600);
    assert_eq!(report["rejects"].as_array().unwrap().len(), 10);
}

#[test]
fn the_report_is_laid_out_as_the_page_says() {
    let rows = [
        ("改得客气一些", "把门关上！！", "请您把门关上，好吗？？"),
        ("请中译英", "你好", "Hello there"),
        ("短答", "", "好"),
    ];
    let line = |(instruction, input, output): (&str, &str, &str)| {
        serde_json::json!({"instruction": instruction, "input": input, "output": output})
            .to_string()
    };
    let text = rows.map(line).join("\n") + "\nno json\n";
    let mut case = case("belle", Purpose::Pretrain, "b.jsonl", text);
    case.options.keep_going = true;
    let path = case.folder.path().join("report.json");
    case.options.report = Some(path.clone());
    clean(&case.options, &Job::quiet()).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let rows = serde_json::json!({"read": 4, "kept": 1, "dropped": 2, "broken": 1});
    assert_eq!(
        (&report["kind"], &report["version"]),
        (&"clean".into(), &1.into())
    );
    assert_eq!(report["rows"], rows);
    let funnel: Vec<String> = report["funnel"].as_array().unwrap()[1..6]
        .iter()
        .map(|rule| {
            ["rule", "action", "reached", "dropped", "changed"]
                .map(|key| rule[key].to_string().replace('"', ""))
                .join(" ")
        })
        .collect();
    assert_eq!(
        funnel,
        [
            "translation drop 3 1 0",
            "table drop 2 0 0",
            "characters rewrite 2 0 0",
            "spaces rewrite 2 0 0",
            "punctuation rewrite 2 0 1",
        ]
    );
    assert_eq!(report["lengths"]["prompt"]["max"], 12);
    assert_eq!(report["lengths"]["response"]["mean"], 10.0);
    assert_eq!(report["characters"]["total"], 22);
    let reject = &report["rejects"][0];
    assert_eq!(
        (&reject["rule"], &reject["row"]),
        (&"translation".into(), &1.into())
    );
    assert_eq!(reject["fields"]["output"], "Hello there");
    // Every key of the page's example is there.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reports.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, example) = page.split_once("```json\n").unwrap();
    let example: serde_json::Value =
        serde_json::from_str(example.split_once("```").unwrap().0).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&report), keys(&example));
    assert_eq!(keys(&report["rows"]), keys(&example["rows"]));
    assert_eq!(keys(&report["characters"]), keys(&example["characters"]));
    assert_eq!(keys(&report["funnel"][0]), keys(&example["funnel"][0]));
    assert_eq!(keys(&report["rejects"][0]), keys(&example["rejects"][0]));
    let prompt = |report: &serde_json::Value| keys(&report["lengths"]["prompt"]);
    assert_eq!(prompt(&report), prompt(&example));
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let case = case(
        "pairs",
        Purpose::Sft,
        "p.jsonl",
        "{\"prompt\": \"问\", \"response\": \"答\"}\n",
    );
    let job = Job::quiet();
    job.cancel.cancel();
    assert_eq!(
        clean(&case.options, &job).unwrap_err().code(),
        Code::Cancelled
    );
    assert_eq!(std::fs::read_dir(case.folder.path()).unwrap().count(), 1);
}

#[test]
fn a_run_interrupted_midway_leaves_nothing() {
    let rows = "{\"prompt\": \"问\", \"response\": \"答\"}\n".repeat(20_000);
    let mut case = case("pairs", Purpose::Sft, "p.jsonl", rows);
    case.options.report = Some(case.folder.path().join("report.json"));
    let cancel = chatlm_job::Cancel::default();
    let flag = cancel.clone();
    // Told with the first rows in hand; the files are open by then.
    let progress = chatlm_job::Reporter::new(move |_| flag.cancel());
    let job = Job { cancel, progress };
    let code = clean(&case.options, &job).unwrap_err().code();
    assert_eq!(code, Code::Cancelled);
    assert_eq!(std::fs::read_dir(case.folder.path()).unwrap().count(), 1);
}
