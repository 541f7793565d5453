//! The loader: rows of weighted sets, shuffled, encoded and cut into batches, for ever.
//!
//! A batch carries the cursor of the place after it. The order is a pure function of seed and epoch
//! (`order.rs`), so a loader that seeks there gives the batches that an undisturbed one would have.
//! Reading and encoding run ahead on a thread of their own, in parallel.

mod batching;
mod group;
mod order;
mod source;
mod store;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use chatlm_job::{Cancel, Code, Error, Job, Result};
use chatlm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use batching::Cut;
use order::{Order, Part};
use source::Source;

/// How many batches wait ready at most.
const AHEAD: usize = 8;

/// Files with a weight: 1 brings each row once an epoch, 2 twice, 0.5 a half, another each epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct SetSpec {
    pub paths: Vec<String>,
    pub weight: f64,
}

/// A place in the stream of batches: the next that was not read.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    pub epoch: u64,
    pub row: u64,
}

/// One of several loaders that share the batches: the same rows in the same order for all, each batch
/// to one of them in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub rank: usize,
    pub world: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { rank: 0, world: 1 }
    }
}

/// What to load and how.
#[derive(Debug, Clone)]
pub struct LoaderOptions {
    pub sets: Vec<SetSpec>,
    /// The text columns of a batch, such as `prompt` and `response`.
    pub columns: Vec<String>,
    pub batch_size: usize,
    /// Instead of `batch_size` rows as many as fit into so many tokens, padding included.
    pub batch_tokens: Option<usize>,
    /// Rows of like lengths together, batches in any order.
    pub group_by_length: bool,
    /// Tokens a field at most, the end mark included.
    pub max_length: usize,
    pub shuffle: bool,
    pub seed: u64,
    /// Rows shuffled together.
    pub buffer: u64,
    pub shard: Shard,
    /// Threads of its own; where `None` those that all share.
    pub threads: Option<usize>,
    /// Where the rows of large text files are kept; where `None` the user's cache.
    pub cache: Option<PathBuf>,
}

/// Some rows, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// A random key a row that depends on seed, epoch and place alone: for dropout.
    pub keys: Vec<u64>,
    /// Ids by column and row; the end mark is always last.
    pub fields: Vec<Vec<Vec<u32>>>,
    /// The rows' indices over all sets.
    pub indices: Vec<u64>,
    pub epoch: u64,
    /// Where to go on after this batch.
    pub next: Cursor,
}

/// What the thread and the loader share.
struct Shared {
    options: LoaderOptions,
    tokenizer: Tokenizer,
    source: Source,
    order: Order,
    cut: Cut,
    pool: Option<rayon::ThreadPool>,
    cancel: Cancel,
}

impl Shared {
    /// Runs parallel work on the loader's threads.
    fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

struct Worker {
    batches: Receiver<Result<Batch>>,
    stop: Arc<AtomicBool>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Gives batches, epoch after epoch.
pub struct Loader {
    shared: Arc<Shared>,
    cursor: Cursor,
    worker: Option<Worker>,
}

impl Loader {
    /// Opens the sets: rows of json, csv and text are checked here, rows of parquet when they are read.
    pub fn open(options: LoaderOptions, tokenizer: Tokenizer, job: &Job) -> Result<Self> {
        check(&options)?;
        let source = Source::open(&options.sets, &options.columns, options.cache.clone(), job)?;
        let mut first = 0;
        let parts = options.sets.iter().zip(&source.sets).map(|(set, rows)| {
            first += rows;
            Part::new(first - rows, *rows, set.weight)
        });
        let order = Order::new(
            parts.collect(),
            options.seed,
            options.shuffle,
            options.buffer,
        );
        if order.total() == 0 {
            let paths: Vec<&str> = options
                .sets
                .iter()
                .flat_map(|set| &set.paths)
                .map(String::as_str)
                .collect();
            return Err(Error::new(
                Code::InputFormat,
                format!("there are no rows in {}", paths.join(", ")),
                "check the input, and the weights of the sets",
            )
            .with("file", paths.join(", ")));
        }
        let pool = options.threads.map(|threads| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .map_err(|e| Error::internal(format!("no threads for the loader: {e}")))
        });
        let shared = Arc::new(Shared {
            cut: Cut {
                rows: options.batch_size,
                tokens: options.batch_tokens,
                by_length: options.group_by_length,
            },
            options,
            tokenizer,
            source,
            order,
            pool: pool.transpose()?,
            cancel: job.cancel.clone(),
        });
        Ok(Self {
            shared,
            cursor: Cursor { epoch: 0, row: 0 },
            worker: None,
        })
    }

    /// Rows an epoch.
    pub fn rows(&self) -> u64 {
        self.shared.order.total()
    }

    /// Batches of `batch_size` rows an epoch, over all shards; the last may be short.
    pub fn batches_per_epoch(&self) -> u64 {
        self.rows().div_ceil(self.shared.options.batch_size as u64)
    }

    /// Goes to a place; the next batch starts there.
    pub fn seek(&mut self, cursor: Cursor) {
        let rows = self.rows();
        self.worker = None;
        self.cursor = Cursor {
            epoch: cursor.epoch + cursor.row / rows,
            row: cursor.row % rows,
        };
    }

    /// The next batch; after the last of an epoch comes the first of the next. After an error the
    /// same batch is tried again.
    pub fn next_batch(&mut self) -> Result<Batch> {
        self.shared.cancel.check()?;
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => self.start()?,
        };
        let batch = worker
            .batches
            .recv()
            .map_err(|_| Error::internal("the loader's thread died"))??;
        self.cursor = batch.next;
        self.worker = Some(worker);
        Ok(batch)
    }

    /// The text of a row's column, for showing.
    pub fn text(&self, index: u64, column: usize) -> Result<String> {
        let record = self.shared.source.read(&[index])?.pop();
        let texts = record
            .ok_or_else(|| Error::internal(format!("there is no row {index}")))?
            .texts?;
        texts
            .into_iter()
            .nth(column)
            .ok_or_else(|| Error::internal(format!("there is no column {column}")))
    }

    fn start(&self) -> Result<Worker> {
        let (sender, batches) = sync_channel(AHEAD);
        let stop = Arc::new(AtomicBool::new(false));
        let mut stream = worker::Stream::new(self.shared.clone(), self.cursor, stop.clone());
        std::thread::Builder::new()
            .name("chatlm-loader".to_owned())
            .spawn(move || {
                loop {
                    let batch = stream.batch();
                    let last = batch.is_err();
                    if sender.send(batch).is_err() || last {
                        return;
                    }
                }
            })
            .map_err(|e| Error::io(&e, "start a thread for", "the loader"))?;
        Ok(Worker { batches, stop })
    }
}

fn check(options: &LoaderOptions) -> Result<()> {
    let wrong = |what: String, help: &str| Err(Error::new(Code::ConfigInvalid, what, help));
    if options.batch_size == 0 {
        return wrong("a batch of 0 rows".to_owned(), "batchSize is at least 1");
    }
    if options.max_length < 2 {
        return wrong(
            format!(
                "a maxLength of {} leaves no room for text",
                options.max_length
            ),
            "maxLength counts tokens with the end mark and is at least 2",
        );
    }
    let least = options.max_length * options.columns.len();
    if let Some(tokens) = options.batch_tokens.filter(|tokens| *tokens < least) {
        return wrong(
            format!("a row may take {least} tokens, a batch only {tokens}"),
            "give batches more tokens, or lower maxLength",
        );
    }
    let Shard { rank, world } = options.shard;
    if rank >= world {
        return wrong(
            format!("a shard {rank} of {world}"),
            "shards are counted from 0",
        );
    }
    for set in &options.sets {
        if !set.weight.is_finite() || set.weight <= 0.0 || set.weight > 1e6 {
            return wrong(
                format!("a weight of {} for {}", set.weight, set.paths.join(", ")),
                "a weight says how often a row comes in an epoch: 1, 2, 0.5",
            );
        }
    }
    Ok(())
}
