//! Matrix products of one thread for some seconds, and how many a second: what two independent
//! processes of a machine reach beside one. `benches/workers.mjs` compares workers with it.
//!
//! `product SECONDS`
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::time::Instant;

use candle_core::{Device, Tensor};

const SIZE: usize = 768;

fn main() {
    let seconds: f64 = std::env::args().nth(1).unwrap().parse().unwrap();
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build_global()
        .unwrap();
    let a = Tensor::randn(0f32, 1.0, (SIZE, SIZE), &Device::Cpu).unwrap();
    let b = Tensor::randn(0f32, 1.0, (SIZE, SIZE), &Device::Cpu).unwrap();
    let (started, mut count) = (Instant::now(), 0);
    while started.elapsed().as_secs_f64() < seconds {
        a.matmul(&b).unwrap();
        count += 1;
    }
    println!("{}", f64::from(count) / started.elapsed().as_secs_f64());
}
