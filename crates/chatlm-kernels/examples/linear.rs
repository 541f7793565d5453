//! GFLOP/s of linear layers, forward and backward, at the shapes of the 0.2 B model on two threads:
//! `cargo run --release -p chatlm-kernels --example linear`; `CHATLM_CPU` chooses the path.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::time::Instant;

use candle_core::{Device, Tensor};
use chatlm_kernels::{Gradients, Precision, Tape, Weight, cpu, linear};

fn random(rows: usize, columns: usize) -> Tensor {
    let values: Vec<f32> = (0..rows * columns)
        .map(|i| ((i * 7919 % 2003) as f32 - 1001.0) / 700.0)
        .collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() {
    rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build_global()
        .unwrap();
    println!("path {}", cpu::cpu().name());
    rayon::scope(|_| {
        for precision in [Precision::F32, Precision::Bf16] {
            for (places, inner, out) in [
                (512, 768, 768),
                (512, 768, 3072),
                (512, 3072, 768),
                (512, 768, 29_298),
                (64, 768, 768),
            ] {
                let weight = Weight::new(random(out, inner), Some(0));
                let mut gradients = Gradients::new(vec![out * inner]);
                let (mut forward, mut backward) = (Vec::new(), Vec::new());
                for _ in 0..12 {
                    let tape = Tape::new(precision);
                    let x = tape.leaf(random(places, inner));
                    let gradient = random(places, out);
                    let started = Instant::now();
                    let y = linear(&tape, &x, &weight, 1.0).unwrap();
                    forward.push(started.elapsed().as_secs_f64());
                    gradients.clear();
                    let started = Instant::now();
                    tape.backward(vec![(y, gradient)], &mut gradients).unwrap();
                    backward.push(started.elapsed().as_secs_f64());
                }
                let work = 2e-9 * (places * inner * out) as f64;
                println!(
                    "{precision:?} ({places}, {inner}) by ({out}, {inner})ᵀ: forward {:.0}, backward {:.0} GFLOP/s",
                    work / median(forward),
                    2.0 * work / median(backward)
                );
            }
        }
    });
}
