//! The measurement of encoding.

use chatlm_run::{BenchEncode as Core, bench_encode as run};
use napi_derive::napi;

use crate::error::blocking;
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct BenchEncodeOptions {
    /// Every text column is taken.
    pub inputs: Vec<String>,
    pub tokenizer: String,
    /// Texts encoded together.
    pub batch: u32,
    /// Bytes of text that are taken, from the start of the inputs.
    pub bytes: f64,
    /// Times that all texts are encoded, after one that does not count.
    pub rounds: u32,
    /// All where left out.
    pub threads: Option<u32>,
}

/// Rates of the median round; reading is not counted.
#[napi(object)]
pub struct BenchEncodeReport {
    pub tokens_per_second: f64,
    pub characters_per_second: f64,
    pub bytes_per_second: f64,
    pub texts: i64,
    pub tokens: i64,
    /// The most memory this process has held, the texts included.
    pub peak_rss_bytes: i64,
    /// The processor path in use.
    pub cpu: String,
}

/// Encodes texts in batches on all threads, as the loader does.
#[napi]
pub async fn bench_encode(
    options: BenchEncodeOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<BenchEncodeReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let report = run(
            &Core {
                inputs: options.inputs,
                tokenizer: options.tokenizer,
                batch: options.batch as usize,
                bytes: options.bytes as u64,
                rounds: options.rounds as usize,
                threads: options.threads.map(|n| n as usize),
            },
            &job,
        )?;
        Ok(BenchEncodeReport {
            tokens_per_second: report.tokens_per_second,
            characters_per_second: report.characters_per_second,
            bytes_per_second: report.bytes_per_second,
            texts: report.texts as i64,
            tokens: report.tokens as i64,
            peak_rss_bytes: report.peak_rss_bytes as i64,
            cpu: report.cpu,
        })
    })
    .await
}
