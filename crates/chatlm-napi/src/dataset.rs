//! Tables: merging, splitting, text for a tokenizer, looking inside.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chatlm_clean::{is_wiki, wiki_corpus};
use chatlm_dataset::{InputOptions, Prompts, corpus as run_corpus, inspect as run_inspect};
use chatlm_dataset::{merge as run_merge, split as run_split};
use chatlm_job::Error;
use napi_derive::napi;

use crate::error::{blocking, json, to_napi};
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct TableOptions {
    pub inputs: Vec<String>,
    pub output: String,
    pub encoding: Option<String>,
    pub keep_going: bool,
    pub force: bool,
}

#[napi(object)]
pub struct TableReport {
    pub rows: i64,
    /// Rows that could not be read (`keep_going`).
    pub broken: i64,
    pub seconds: f64,
}

/// Writes the rows of all inputs, in order, into one table.
#[napi]
pub async fn merge(
    options: TableOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<TableReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let started = Instant::now();
        let input = InputOptions {
            encoding: options.encoding,
            keep_going: options.keep_going,
        };
        let output = Path::new(&options.output);
        let written = run_merge(&options.inputs, &input, output, options.force, &job)?;
        Ok(TableReport {
            rows: written.rows as i64,
            broken: written.broken as i64,
            seconds: started.elapsed().as_secs_f64(),
        })
    })
    .await
}

/// Writes text for a tokenizer: `prompt[SEP]response[SEP]` a line, text files line by line, the articles of
/// Wikipedia's dumps line by line in simplified characters.
#[napi]
pub async fn corpus(
    options: TableOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<TableReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let started = Instant::now();
        let input = InputOptions {
            encoding: options.encoding,
            keep_going: options.keep_going,
        };
        let output = Path::new(&options.output);
        let (rows, broken) = if is_wiki(&options.inputs)? {
            wiki_corpus(&options.inputs, &input, output, options.force, &job)?
        } else {
            let written = run_corpus(&options.inputs, &input, output, options.force, &job)?;
            (written.rows, written.broken)
        };
        Ok(TableReport {
            rows: rows as i64,
            broken: broken as i64,
            seconds: started.elapsed().as_secs_f64(),
        })
    })
    .await
}

#[napi(object)]
pub struct SplitOptions {
    pub inputs: Vec<String>,
    /// The folder for `train.parquet`, `valid.parquet`, `test.parquet`.
    pub output: String,
    /// Shares of the rows; their sum is at most 1.
    pub train: f64,
    pub valid: f64,
    pub test: f64,
    /// The same seed draws the same rows.
    pub seed: f64,
    pub encoding: Option<String>,
    pub keep_going: bool,
    pub force: bool,
}

#[napi(object)]
pub struct SplitReport {
    pub rows: i64,
    pub train: i64,
    pub valid: i64,
    pub test: i64,
    /// Rows that could not be read (`keep_going`).
    pub broken: i64,
    pub seconds: f64,
}

/// Draws each row into one of three tables.
#[napi]
pub async fn split(
    options: SplitOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<SplitReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let started = Instant::now();
        let input = InputOptions {
            encoding: options.encoding,
            keep_going: options.keep_going,
        };
        let shares = [options.train, options.valid, options.test];
        let output = Path::new(&options.output);
        let seed = options.seed as u64;
        let counts = run_split(
            &options.inputs,
            &input,
            output,
            shares,
            seed,
            options.force,
            &job,
        )?;
        Ok(SplitReport {
            rows: counts.rows as i64,
            train: counts.train as i64,
            valid: counts.valid as i64,
            test: counts.test as i64,
            broken: counts.broken as i64,
            seconds: started.elapsed().as_secs_f64(),
        })
    })
    .await
}

#[napi(object)]
pub struct InspectOptions {
    pub inputs: Vec<String>,
    /// How many rows to show.
    pub rows: u32,
    pub encoding: Option<String>,
}

/// Counts rows, names columns, draws length histograms and shows a few rows.
#[napi(
    ts_return_type = "Promise<{ rows: number; columns: Array<{ name: string; kind: string }>; lengths: Array<{ column: string; min: number; max: number; mean: number; buckets: Array<{ upTo: number; rows: number }> }>; samples: Array<Record<string, unknown>> }>"
)]
pub async fn inspect(
    options: InspectOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<serde_json::Value> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let input = InputOptions {
            encoding: options.encoding,
            keep_going: false,
        };
        json(&run_inspect(
            &options.inputs,
            &input,
            options.rows as usize,
            &job,
        )?)
    })
    .await
}

#[napi(object)]
pub struct PromptOptions {
    /// Rows with a field `prompt`, or text files; `-` is standard input.
    pub inputs: Vec<String>,
    pub encoding: Option<String>,
}

/// Reads prompts a few at a time: files of any size in bounded memory.
#[napi]
pub struct PromptReader {
    prompts: Arc<Mutex<Prompts>>,
}

#[napi]
impl PromptReader {
    /// Finds the inputs; throws `INPUT_NOT_FOUND`.
    #[napi(factory, catch_unwind)]
    pub fn open(options: PromptOptions) -> napi::Result<Self> {
        let input = InputOptions {
            encoding: options.encoding,
            keep_going: false,
        };
        let prompts = Prompts::open(&options.inputs, &input).map_err(|e| to_napi(&e))?;
        Ok(Self {
            prompts: Arc::new(Mutex::new(prompts)),
        })
    }

    /// The next `count` prompts, none at the end; rejects with `INPUT_ROW` where a row has none.
    #[napi]
    pub async fn next(&self, count: u32) -> napi::Result<Vec<String>> {
        let prompts = self.prompts.clone();
        blocking(move || {
            let mut prompts = prompts
                .lock()
                .map_err(|_| Error::internal("a reader panicked"))?;
            prompts.next(count as usize)
        })
        .await
    }
}
