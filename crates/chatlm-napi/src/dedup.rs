//! Near-duplicates.

use chatlm_dedup::{DedupOptions as Core, dedup as run};
use napi_derive::napi;

use crate::error::blocking;
use crate::job::{CancelHandle, OnProgress, job};

#[napi(object)]
pub struct DedupOptions {
    pub inputs: Vec<String>,
    pub output: String,
    /// Jaccard similarity from which a row falls, above 0 and at most 1.
    pub threshold: f64,
    /// Characters a shingle, at least 1.
    pub ngram: u32,
    /// MinHash permutations, at least 16.
    pub num_perm: u32,
    /// Where the dropped rows and their clusters go, as a table.
    pub clusters: Option<String>,
    /// Where a report goes, as JSON.
    pub report: Option<String>,
    /// Also drops what resembles a row of these sets.
    pub against: Vec<String>,
    /// Where the work of a broken off run lies until it is gone on with; `.NAME.dedup` beside the output
    /// where left out.
    pub work: Option<String>,
    /// Repeats the reference program; threshold, ngram and numPerm are not looked at.
    pub compat: bool,
    /// Bytes that the whole process may hold; half of what is free, at most 4 GiB, where left out.
    pub max_memory: Option<i64>,
    pub encoding: Option<String>,
    pub keep_going: bool,
    pub force: bool,
}

#[napi(object)]
pub struct DedupReport {
    pub rows: i64,
    pub kept: i64,
    pub duplicates: i64,
    pub contaminated: i64,
    pub clusters: i64,
    pub seconds: f64,
    pub peak_rss_bytes: i64,
}

/// Drops each row that some earlier row resembles; order is kept.
#[napi]
pub async fn dedup(
    options: DedupOptions,
    #[napi(ts_arg_type = "((progress: Progress) => void) | undefined | null")] on_progress: Option<
        OnProgress,
    >,
    #[napi(ts_arg_type = "CancelToken | undefined | null")] cancel: Option<CancelHandle>,
) -> napi::Result<DedupReport> {
    let job = job(on_progress, cancel);
    blocking(move || {
        let report = run(
            &Core {
                inputs: options.inputs,
                output: options.output.into(),
                threshold: options.threshold,
                ngram: options.ngram as usize,
                num_perm: options.num_perm as usize,
                clusters: options.clusters.map(Into::into),
                report: options.report.map(Into::into),
                against: options.against,
                work: options.work.map(Into::into),
                compat: options.compat,
                max_memory: options.max_memory.map(|bytes| bytes.max(0) as u64),
                encoding: options.encoding,
                keep_going: options.keep_going,
                force: options.force,
            },
            &job,
        )?;
        Ok(DedupReport {
            rows: report.rows as i64,
            kept: report.kept as i64,
            duplicates: report.duplicates as i64,
            contaminated: report.contaminated as i64,
            clusters: report.clusters as i64,
            seconds: report.seconds,
            peak_rss_bytes: report.peak_rss_bytes as i64,
        })
    })
    .await
}
