use std::path::Path;
use std::time::Instant;

use chatlm_checkpoint::load_weights;
use chatlm_t5::{Session, StoredKind};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let kind = match args[2].as_str() {
        "f32" => StoredKind::F32,
        "bf16" => StoredKind::Bf16,
        "f16" => StoredKind::F16,
        _ => StoredKind::Int8,
    };
    let batches: Vec<usize> = args[3].split(',').map(|b| b.parse().unwrap()).collect();
    let t = Instant::now();
    let folder = load_weights(Path::new(&args[1]), Some(kind)).unwrap();
    eprintln!("load {:.3}", t.elapsed().as_secs_f64());
    for batch in batches {
        let mut best = (f64::MAX, f64::MAX);
        for _ in 0..4 {
            rayon::scope(|_| {
                let prompts: Vec<Vec<u32>> = (0..batch)
                    .map(|b| {
                        (0..63)
                            .map(|i| 2 + (b as u32 * 7919 + i * 31) % 29000)
                            .chain([1])
                            .collect()
                    })
                    .collect();
                let views: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
                let mut session = Session::new(folder.weights.clone());
                let t = Instant::now();
                session.add(&views).unwrap();
                eprintln!(
                    "{:?}",
                    std::fs::read_to_string("/proc/self/status")
                        .unwrap()
                        .lines()
                        .filter(|l| l.starts_with("Rss") || l.starts_with("VmHWM"))
                        .collect::<Vec<_>>()
                );
                let mut tokens = vec![0; batch];
                let mut first = 0.0;
                for step in 0..96 {
                    tokens = session
                        .step_best(&tokens)
                        .unwrap()
                        .into_iter()
                        .map(Option::unwrap)
                        .collect();
                    if step == 0 {
                        first = t.elapsed().as_secs_f64();
                    }
                }
                let all = t.elapsed().as_secs_f64();
                best = (best.0.min(first), best.1.min(all));
            });
        }
        rayon::scope(|_| {
            let mut session = Session::new(folder.weights.clone());
            session.add(&vec![&[5u32, 6, 7, 1][..]; batch]).unwrap();
            let mut tokens = vec![0; batch];
            let mut t = Instant::now();
            for step in 1..=512 {
                tokens = session
                    .step_best(&tokens)
                    .unwrap()
                    .into_iter()
                    .map(Option::unwrap)
                    .collect();
                if step % 64 == 0 {
                    eprint!("{:.2} ", t.elapsed().as_secs_f64() * 1e3 / 64.0);
                    t = Instant::now();
                }
            }
            eprintln!("ms a step");
        });
        eprintln!(
            "{kind:?} batch {batch}: first {:.1} ms, {:.1} tok/s",
            best.0 * 1e3,
            batch as f64 * 96.0 / best.1
        );
    }
}
