//! Rows of any input as batches, and tables written from batches.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use chatlm_dataset::{ColumnKind, InputOptions, RowBatches, RowTable};
use chatlm_job::{Cancel, Code, Error, Result};
use napi_derive::napi;

use crate::error::{blocking, guarded};

#[napi(object)]
pub struct RowsOptions {
    /// Files, folders or globs; `-` is standard input.
    pub inputs: Vec<String>,
    /// Only these fields, in this order; a row that lacks one is an error.
    pub columns: Option<Vec<String>>,
    /// Such as `gb18030`; detected where left out.
    pub encoding: Option<String>,
    /// Passes over broken rows instead of stopping at the first.
    pub keep_going: bool,
}

/// Reads rows a batch at a time, in bounded memory.
#[napi]
pub struct RowReader {
    batches: Arc<Mutex<Option<RowBatches>>>,
    cancel: Cancel,
}

fn closed() -> Error {
    Error::internal("the rows are closed")
}

fn held<T>(place: &Mutex<Option<T>>) -> Result<std::sync::MutexGuard<'_, Option<T>>> {
    place.lock().map_err(|_| closed())
}

#[napi]
impl RowReader {
    /// Finds the inputs; throws `INPUT_NOT_FOUND`.
    #[napi(factory, catch_unwind)]
    pub fn open(options: RowsOptions) -> napi::Result<Self> {
        let input = InputOptions {
            encoding: options.encoding,
            keep_going: options.keep_going,
        };
        let cancel = Cancel::default();
        let batches =
            guarded(|| RowBatches::open(&options.inputs, &input, options.columns, cancel.clone()))?;
        Ok(Self {
            batches: Arc::new(Mutex::new(Some(batches))),
            cancel,
        })
    }

    /// Up to `count` rows as the JSON text of a list of `{file, row, fields}`; `[]` at the end. Rejects with
    /// `INPUT_ROW` or `INPUT_FORMAT`, and with `CANCELLED` within a row after `close()`.
    #[napi]
    pub async fn next(&self, count: u32) -> napi::Result<String> {
        let batches = self.batches.clone();
        blocking(move || {
            held(&batches)?
                .as_mut()
                .ok_or_else(closed)?
                .next(count as usize)
        })
        .await
    }

    /// Stops a read that is under way and closes the files.
    #[napi]
    pub fn close(&self) {
        self.cancel.cancel();
        let batches = self.batches.clone();
        // A read may hold it for the rest of its row: not on Node's thread.
        std::thread::spawn(move || held(&batches).map(|mut rows| rows.take()));
    }
}

#[napi(object)]
pub struct TableColumn {
    pub name: String,
    /// `text` (lists and objects become JSON), `int64` or `float64`.
    pub kind: String,
}

#[napi(object)]
pub struct RowWriterOptions {
    /// `.parquet` or `.jsonl`.
    pub output: String,
    /// Left out: those of the first batch.
    pub columns: Option<Vec<TableColumn>>,
    /// Replaces an existing output.
    pub force: bool,
}

/// Writes rows into a table that is put in place by `finish()`, and otherwise never seen.
#[napi]
pub struct RowWriter {
    table: Arc<Mutex<Option<RowTable>>>,
}

fn kind(column: &TableColumn) -> Result<ColumnKind> {
    match column.kind.as_str() {
        "text" => Ok(ColumnKind::Text),
        "int64" => Ok(ColumnKind::Int64),
        "float64" => Ok(ColumnKind::Float64),
        other => Err(Error::new(
            Code::Usage,
            format!("the column {:?} has the kind {other:?}", column.name),
            "use text, int64 or float64",
        )),
    }
}

#[napi]
impl RowWriter {
    /// Throws `TARGET_EXISTS` where the output is there and `force` is false.
    #[napi(factory, catch_unwind)]
    pub fn create(options: RowWriterOptions) -> napi::Result<Self> {
        let table = guarded(|| {
            let columns = options.columns.map(|columns| {
                let named = columns.into_iter().map(|c| Ok((kind(&c)?, c.name)));
                named
                    .map(|pair: Result<_>| pair.map(|(k, n)| (n, k)))
                    .collect()
            });
            RowTable::create(
                &PathBuf::from(options.output),
                columns.transpose()?,
                options.force,
            )
        })?;
        Ok(Self {
            table: Arc::new(Mutex::new(Some(table))),
        })
    }

    /// Adds the rows of the JSON text of a list of objects; rejects with `INPUT_ROW` for a value that has no
    /// column or does not fit it.
    #[napi]
    pub async fn write(&self, batch: String) -> napi::Result<()> {
        let table = self.table.clone();
        blocking(move || held(&table)?.as_mut().ok_or_else(closed)?.write(&batch)).await
    }

    /// Puts the table in place; the number of rows.
    #[napi]
    pub async fn finish(&self) -> napi::Result<i64> {
        let table = self.table.clone();
        blocking(move || {
            let table = held(&table)?.take().ok_or_else(closed)?;
            table.finish().map(|rows| rows as i64)
        })
        .await
    }

    /// Throws away what is not finished; resolves when nothing of it is left.
    #[napi]
    pub async fn close(&self) -> napi::Result<()> {
        let table = self.table.clone();
        blocking(move || {
            held(&table)?.take();
            Ok(())
        })
        .await
    }
}
