//! Trains on the lines of a text file and prints time and peak memory:
//! `cargo run --release -p chatlm-tokenizer --example train -- FILE OUT char-bpe 40960 100 [MiB]`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "an example")]

use std::io::{BufRead, BufReader};
use std::path::Path;

use chatlm_job::Job;
use chatlm_tokenizer::{TrainOptions, train};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let lines = BufReader::new(std::fs::File::open(&args[0]).unwrap()).lines();
    let options = TrainOptions {
        preset: args[2].parse().unwrap(),
        vocab_size: args[3].parse().unwrap(),
        min_frequency: args[4].parse().unwrap(),
        max_memory: args.get(5).map(|mib| mib.parse::<u64>().unwrap() << 20),
        files: Some(vec![args[0].clone().into()]),
    };
    let report = train(
        lines.map(|line| Ok(line.unwrap())),
        &options,
        Path::new(&args[1]),
        true,
        &Job::quiet(),
    );
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    println!("{report:?} {peak}");
}
