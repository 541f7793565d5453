#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use super::*;

fn batches(
    text: &str,
    columns: Option<Vec<String>>,
) -> (tempfile::TempDir, RowBatches, Cancel, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl").display().to_string();
    fs::write(&path, text).unwrap();
    let cancel = Cancel::default();
    let options = InputOptions {
        keep_going: true,
        ..InputOptions::default()
    };
    let rows = RowBatches::open(
        std::slice::from_ref(&path),
        &options,
        columns,
        cancel.clone(),
    );
    (folder, rows.unwrap(), cancel, path)
}

#[test]
fn rows_keep_file_number_and_order_and_end_with_an_empty_batch() {
    let (_folder, mut rows, _, path) = batches(
        "{\"a\":1,\"b\":\"一\"}\nbroken\n{\"a\":2}\n{\"a\":3}\n",
        None,
    );
    let first: Value = serde_json::from_str(&rows.next(2).unwrap()).unwrap();
    assert_eq!(
        first,
        json!([
            { "file": path, "row": 0, "fields": { "a": 1, "b": "一" } },
            { "file": path, "row": 2, "fields": { "a": 2 } }
        ])
    );
    assert!(rows.next(2).unwrap().contains("\"row\":3"));
    assert_eq!(rows.next(2).unwrap(), "[]");
    assert_eq!(rows.broken(), 1);
}

#[test]
fn chosen_columns_come_in_their_order_and_a_missing_one_is_named() {
    let columns = Some(vec!["b".to_owned(), "a".to_owned()]);
    let (_folder, mut rows, ..) = batches("{\"a\":1,\"b\":2,\"c\":3}\n{\"a\":1}\n", columns);
    assert!(rows.next(1).unwrap().contains("{\"b\":2,\"a\":1}"));
    let error = rows.next(1).unwrap_err();
    assert_eq!(error.code(), Code::InputRow);
    assert_eq!(error.context()["field"], "b");
    assert_eq!(error.context()["row"], 1);
}

#[test]
fn long_rows_come_in_smaller_batches() {
    let line = format!("{{\"a\":\"{}\"}}\n", "字".repeat(1 << 20));
    let (_folder, mut rows, ..) = batches(&line.repeat(4), None);
    let sizes: Vec<usize> = std::iter::from_fn(|| {
        let batch: Vec<Value> = serde_json::from_str(&rows.next(100).unwrap()).unwrap();
        (!batch.is_empty()).then_some(batch.len())
    })
    .collect();
    assert_eq!(sizes, [2, 2]);
}

#[test]
fn a_set_flag_ends_reading() {
    let (_folder, mut rows, cancel, _) = batches("{\"a\":1}\n{\"a\":2}\n", None);
    rows.next(1).unwrap();
    cancel.cancel();
    assert_eq!(rows.next(1).unwrap_err().code(), Code::Cancelled);
}

#[test]
fn tables_take_the_columns_of_their_first_batch() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.parquet");
    let mut table = RowTable::create(&target, None, false).unwrap();
    table
        .write("[{\"a\":1,\"t\":\"x\"},{\"a\":1.5,\"l\":[1]}]")
        .unwrap();
    table.write("[{\"a\":2}]").unwrap();
    assert!(!target.exists());
    assert_eq!(table.finish().unwrap(), 3);
    let rows: Vec<Fields> = Rows::open(&[target.display().to_string()], &InputOptions::default())
        .unwrap()
        .map(|row| row.unwrap().fields)
        .collect();
    assert_eq!(
        Value::from(rows[1].clone()),
        json!({ "a": 1.5, "t": null, "l": "[1]" })
    );
    assert_eq!(rows[2]["a"], json!(2.0));
}

#[test]
fn a_row_that_does_not_fit_is_named_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.jsonl");
    let mut table = RowTable::create(&target, None, false).unwrap();
    table.write("[{\"a\":1}]").unwrap();
    for (row, field) in [("{\"a\":1.5}", "a"), ("{\"b\":1}", "b")] {
        let error = table.write(&format!("[{row}]")).unwrap_err();
        assert_eq!(error.code(), Code::InputRow);
        assert_eq!(error.context()["field"], field);
        assert_eq!(error.context()["row"], 1);
    }
    drop(table);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_existing_target_is_told_before_any_row() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.jsonl");
    fs::write(&target, "old").unwrap();
    let refused = RowTable::create(&target, None, false).err().unwrap();
    assert_eq!(refused.code(), Code::TargetExists);
    let mut table = RowTable::create(&target, None, true).unwrap();
    table.write("[{\"a\":1}]").unwrap();
    assert_eq!(table.finish().unwrap(), 1);
    assert_eq!(fs::read_to_string(&target).unwrap(), "{\"a\":1}\n");
}
