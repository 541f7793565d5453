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
