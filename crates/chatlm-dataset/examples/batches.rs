//! The batches of a training run as JSON lines, for whoever trains on the same ones elsewhere
//! (benches/learn.mjs): `batches ROWS TOKENIZER BATCH LENGTH SEED COUNT`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "an example")]

use std::path::Path;

use chatlm_dataset::{Loader, LoaderOptions, SetSpec, Shard};
use chatlm_job::Job;
use chatlm_tokenizer::Tokenizer;
use serde_json::json;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| -> u64 { args[at].parse().unwrap() };
    let options = LoaderOptions {
        sets: vec![SetSpec {
            paths: vec![args[0].clone()],
            weight: 1.0,
        }],
        columns: vec!["prompt".to_owned(), "response".to_owned()],
        batch_size: number(2) as usize,
        batch_tokens: None,
        group_by_length: false,
        max_length: number(3) as usize,
        shuffle: true,
        seed: number(4),
        // As chatlm-run has it.
        buffer: 65_536,
        shard: Shard::default(),
        threads: None,
        cache: None,
    };
    let tokenizer = Tokenizer::load(Path::new(&args[1])).unwrap();
    let mut loader = Loader::open(options, tokenizer, &Job::quiet()).unwrap();
    for _ in 0..number(5) {
        let batch = loader.next_batch().unwrap();
        println!(
            "{}",
            json!({ "source": batch.fields[0], "target": batch.fields[1] })
        );
    }
}
