//! Seconds of an update (global norm, clipping, AdamW) of ChatLM's 188 million weights in 2
//! threads: `cargo run --release -p chatlm-optim --example update -- [steps] [adamw|adafactor]`.
//! PyTorch's half is `benches/peers/update.py`; run both by turns and compare the ratio only.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::time::Instant;

use chatlm_optim::{Optimizer, OptimizerConfig, clip_scale, squared_norm};

/// The weights of `Config::chatlm(29_298)`.
fn shapes() -> Vec<(String, Vec<usize>)> {
    const WIDTH: usize = 768;
    const INNER: usize = 3072;
    const LAYERS: usize = 10;
    let mut shapes = vec![("shared".to_owned(), vec![29_298, WIDTH])];
    for (stack, attentions) in [("encoder", 1), ("decoder", 2)] {
        let mut add = |name: String, shape: &[usize]| {
            shapes.push((format!("{stack}.{name}"), shape.to_vec()));
        };
        add("bias".to_owned(), &[32, 12]);
        add("norm".to_owned(), &[WIDTH]);
        for layer in 0..LAYERS {
            for attention in 0..attentions {
                for part in ["q", "k", "v", "o"] {
                    add(format!("{layer}.{attention}.{part}"), &[WIDTH, WIDTH]);
                }
                add(format!("{layer}.{attention}.norm"), &[WIDTH]);
            }
            add(format!("{layer}.wi"), &[INNER, WIDTH]);
            add(format!("{layer}.wo"), &[WIDTH, INNER]);
            add(format!("{layer}.norm"), &[WIDTH]);
        }
    }
    shapes
}

/// Values around 0 of a root mean square of about `size`, from a Weyl sequence.
fn values(count: usize, seed: u32, size: f32) -> Vec<f32> {
    (0..count as u32)
        .map(|i| {
            let bits = i.wrapping_add(seed).wrapping_mul(0x9E37_79B9);
            (bits as f32 / u32::MAX as f32 - 0.5) * 3.46 * size
        })
        .collect()
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let steps = arguments.next().map_or(10, |n| n.parse().unwrap());
    let config = match arguments.next().as_deref() {
        None | Some("adamw") => OptimizerConfig::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            scale_parameter: false,
        },
        _ => OptimizerConfig::Adafactor {
            relative_step: false,
            scale_parameter: false,
            warmup_init: false,
            weight_decay: 0.0,
        },
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build_global()
        .unwrap();
    let shapes = shapes();
    let (mut weights, mut gradients) = (vec![], vec![]);
    for (seed, (_, shape)) in shapes.iter().enumerate() {
        let count = shape.iter().product();
        weights.push(values(count, seed as u32, 0.05));
        gradients.push(values(count, 1000 + seed as u32, 1e-3));
    }
    let count: usize = weights.iter().map(Vec::len).sum();
    let mut optimizer = Optimizer::new(config, &shapes);
    let (mut norms, mut updates, mut totals) = (vec![], vec![], vec![]);
    // The first step, which asks the system for its memory, is not counted.
    for step in 0..=steps {
        let started = Instant::now();
        let norm = gradients
            .iter()
            .map(|g| squared_norm(g))
            .sum::<f64>()
            .sqrt();
        let scale = clip_scale(norm, 1.0);
        let clipped = started.elapsed().as_secs_f64();
        optimizer.begin_step();
        for (index, (weights, gradient)) in weights.iter_mut().zip(&gradients).enumerate() {
            optimizer.update(index, weights, gradient, scale, 1e-4);
        }
        let total = started.elapsed().as_secs_f64();
        println!(
            "step {step}: {total:.4} s, norm {norm:.3}, {}",
            weights[0][0]
        );
        if step > 0 {
            norms.push(clipped);
            updates.push(total - clipped);
            totals.push(total);
        }
    }
    println!(
        "seconds an update of {count} weights {:.4} (median of {steps}; norm {:.4}, update {:.4})",
        median(&mut totals),
        median(&mut norms),
        median(&mut updates)
    );
}
