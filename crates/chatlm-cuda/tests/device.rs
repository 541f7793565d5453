//! Every launcher on a real GPU beside chatlm-kernels' or candle's operators on the processor. Runs with
//! the feature `cuda` and `CHATLM_TEST_DEVICE=cuda`; otherwise every test passes with a line.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use candle_core::{D, DType, Device, Tensor};
use chatlm_cuda::adafactor::Adafactor;
use chatlm_cuda::adamw::AdamW;
use chatlm_cuda::tensors::{self, AdafactorMoments, Heads, Places, Projected};
use chatlm_kernels::{Gradients, Precision, Projection, RelativeBias, Rows, Tape, Value, Weight};
use chatlm_optim::{Optimizer, OptimizerConfig};
use std::sync::Arc;

const IGNORE: u32 = u32::MAX;

/// The GPU, or nothing with a line that says so.
fn gpu() -> Option<Device> {
    if std::env::var("CHATLM_TEST_DEVICE").is_ok_and(|name| name.starts_with("cuda")) {
        return Some(Device::new_cuda(0).unwrap());
    }
    eprintln!("skipped: CHATLM_TEST_DEVICE is not cuda");
    None
}

fn random(count: usize, key: u64, size: f32) -> Vec<f32> {
    let mut random = chatlm_job::Random::new(key);
    (0..count)
        .map(|_| (2.0 * random.uniform() as f32 - 1.0) * size)
        .collect()
}

/// A tensor of the processor, its values as `dtype` has them.
fn tensor(shape: &[usize], key: u64, dtype: DType) -> Tensor {
    let count = shape.iter().product();
    let values = Tensor::from_vec(random(count, key, 0.7), shape, &Device::Cpu).unwrap();
    values
        .to_dtype(dtype)
        .unwrap()
        .to_dtype(DType::F32)
        .unwrap()
}

fn close(what: &str, found: &Tensor, expected: &Tensor, dtype: DType) {
    let numbers = |x: &Tensor| -> Vec<f32> {
        let x = x
            .to_device(&Device::Cpu)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap();
        x.flatten_all().unwrap().to_vec1().unwrap()
    };
    let (found, expected) = (numbers(found), numbers(expected));
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1e-3f32, |size, x| size.max(x.abs()));
    let most = match dtype {
        DType::F16 => 4e-3,
        DType::BF16 => 3e-2,
        _ => 2e-5,
    };
    for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!(
            (found - expected).abs() <= most * size,
            "{what}[{place}]: {found}, not {expected}"
        );
    }
}

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn norm() {
    let Some(gpu) = gpu() else { return };
    for dtype in TYPES {
        for (rows, width) in [(1, 8), (70, 768), (3, 33)] {
            let (x, w) = (tensor(&[rows, width], 1, dtype), tensor(&[width], 2, dtype));
            let g = tensor(&[rows, width], 3, dtype);
            let tape = Tape::new(Precision::F32);
            let leaf = tape.leaf(x.clone());
            let y = chatlm_kernels::rms_norm(&tape, &leaf, &Weight::new(w.clone(), Some(0)), 1e-6)
                .unwrap();
            let expected = y.tensor().clone();
            let mut sums = Gradients::new(vec![width]);
            let dx = tape
                .backward_to(&[&leaf], vec![(y, g.clone())], &mut sums)
                .unwrap()
                .remove(0);
            let on = |x: &Tensor| x.to_dtype(dtype).unwrap().to_device(&gpu).unwrap();
            let made = tensors::rms_norm(&on(&x), None, &on(&w), 1e-6).unwrap();
            close("normed", &made.normed, &expected, dtype);
            let (found, dw) =
                tensors::rms_norm_backward(&on(&x), &on(&w), &made.scales, &on(&g), None).unwrap();
            close("dx", &found, &dx, dtype);
            let expected = Tensor::new(sums.get(0).unwrap(), &Device::Cpu).unwrap();
            close("dw", &dw, &expected, dtype);
            let joined = tensors::rms_norm(&on(&x), Some(&on(&g)), &on(&w), 1e-6).unwrap();
            close(
                "sum",
                joined.sum.as_ref().unwrap(),
                &(x + g).unwrap(),
                dtype,
            );
        }
    }
}

#[test]
fn attention() {
    let Some(gpu) = gpu() else { return };
    let lengths = [200usize, 1, 33];
    let (places, rows) = (234, Arc::new(Rows::new(&lengths)));
    let starts = [0u32, 200, 201, 234];
    for dtype in TYPES {
        for (heads, width, causal) in [
            (12, 64, true),
            (12, 64, false),
            (2, 8, true),
            (1, 128, true),
        ] {
            let inner = heads * width;
            let [q, k, v, g] = [1, 2, 3, 4].map(|key| tensor(&[places, inner], key, dtype));
            let table = tensor(&[399, heads], 5, DType::F32);
            let bias = RelativeBias {
                weight: Weight::new(table.clone(), Some(0)),
                buckets: Arc::new((0..399).collect()),
            };
            let tape = Tape::new(Precision::F32);
            let leaves = [&q, &k, &v].map(|x| tape.leaf(x.clone()));
            let [a, b, c] = &leaves;
            let y = chatlm_kernels::attention(
                &tape,
                (a, b, c),
                heads,
                Some(&bias),
                &rows,
                &rows,
                causal,
                None,
            )
            .unwrap();
            let out = y.tensor().clone();
            let mut sums = Gradients::new(vec![399 * heads]);
            let expected = tape
                .backward_to(&[a, b, c], vec![(y, g.clone())], &mut sums)
                .unwrap();
            let on = |x: &Tensor| x.to_dtype(dtype).unwrap().to_device(&gpu).unwrap();
            let lines = table
                .t()
                .unwrap()
                .contiguous()
                .unwrap()
                .to_device(&gpu)
                .unwrap();
            let with = Heads {
                heads,
                causal,
                queries: &starts,
                keys: &starts,
                bias: Some(&lines),
                drop: None,
            };
            let (q, k, v) = (on(&q), on(&k), on(&v));
            let attended = tensors::attention(&q, &k, &v, with).unwrap();
            close("out", &attended.out, &out, dtype);
            let found =
                tensors::attention_backward([&q, &k, &v], with, &attended, &on(&g)).unwrap();
            for (name, found, expected) in [
                ("dq", &found.dq, &expected[0]),
                ("dk", &found.dk, &expected[1]),
                ("dv", &found.dv, &expected[2]),
            ] {
                close(name, found, expected, dtype);
            }
            let table =
                Tensor::from_slice(sums.get(0).unwrap(), (399, heads), &Device::Cpu).unwrap();
            close(
                "bias",
                &found.lines.unwrap(),
                &table.t().unwrap().contiguous().unwrap(),
                dtype,
            );
            // Deterministic: the same bits again.
            let again = tensors::attention(&q, &k, &v, with).unwrap();
            let same = again
                .out
                .ne(&attended.out)
                .unwrap()
                .to_dtype(DType::F32)
                .unwrap()
                .sum_all()
                .unwrap();
            assert_eq!(same.to_scalar::<f32>().unwrap().to_bits(), 0);
        }
    }
}

#[test]
fn projected_loss() {
    let Some(gpu) = gpu() else { return };
    for (rows, inner, width) in [(5, 16, 97), (300, 64, 29298)] {
        let (x, w) = (
            tensor(&[rows, inner], 1, DType::F32),
            tensor(&[width, inner], 2, DType::F32),
        );
        let mut targets: Vec<u32> = (0..rows).map(|row| (row * 31 % width) as u32).collect();
        targets[1] = IGNORE;
        let weight = Weight::new(w.clone(), Some(0));
        let twin = Projection {
            weight: &weight,
            scale: 0.5,
            precision: Precision::F32,
        };
        let mut sums = Gradients::new(vec![width * inner]);
        let (loss, dx) = twin
            .cross_entropy_backward(&x, &targets, IGNORE, 0.1, 0.25, &mut sums)
            .unwrap();
        let (x, w) = (x.to_device(&gpu).unwrap(), w.to_device(&gpu).unwrap());
        let with = Projected {
            weight: &w,
            scale: 0.5,
            targets: &targets,
            ignore: IGNORE,
        };
        let (found, gradients) =
            tensors::projected_cross_entropy(&x, with, 0.1, Some(0.25)).unwrap();
        assert!((found - loss).abs() < 1e-4 * loss, "{found} {loss}");
        let (found, dw) = gradients.unwrap();
        close("dx", &found, &dx, DType::F16);
        let expected =
            Tensor::from_slice(sums.get(0).unwrap(), (width, inner), &Device::Cpu).unwrap();
        close("dw", &dw, &expected, DType::F16);
        let (scores, _) = tensors::log_probabilities(&x, with, None).unwrap();
        let expected = twin
            .log_probabilities(&x.to_device(&Device::Cpu).unwrap(), &targets, IGNORE)
            .unwrap();
        close(
            "log-probabilities",
            &Tensor::new(scores, &Device::Cpu).unwrap(),
            &Tensor::new(expected, &Device::Cpu).unwrap(),
            DType::F32,
        );
    }
}

#[test]
fn optimizers() {
    let Some(gpu) = gpu() else { return };
    let shape = [130, 300];
    let on = |x: Vec<f32>, shape: &[usize]| Tensor::from_vec(x, shape, &gpu).unwrap();
    for adam in [true, false] {
        let config = if adam {
            OptimizerConfig::AdamW {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.01,
            }
        } else {
            OptimizerConfig::Adafactor {
                relative_step: true,
                scale_parameter: true,
                warmup_init: false,
                weight_decay: 0.01,
            }
        };
        let mut optimizer = Optimizer::new(config, &[("w".to_owned(), shape.to_vec())]);
        let mut weights = random(39_000, 1, 1.0);
        let weight = on(weights.clone(), &shape);
        let (first, second) = (weight.zeros_like().unwrap(), weight.zeros_like().unwrap());
        let moments = AdafactorMoments::Matrix {
            row: on(vec![0.0; 130], &[130]),
            column: on(vec![0.0; 300], &[300]),
        };
        for step in 1..=3 {
            let gradient = random(39_000, 10 + step, 0.5);
            optimizer.begin_step();
            optimizer.update(0, &mut weights, &gradient, 0.5, 1e-2);
            let gradient = on(gradient, &shape);
            if adam {
                let rule = AdamW {
                    beta1: 0.9,
                    beta2: 0.999,
                    epsilon: 1e-8,
                    weight_decay: 0.01,
                };
                tensors::adamw(
                    rule,
                    &weight,
                    &gradient,
                    (&first, &second),
                    (0.5, 1e-2),
                    step,
                )
                .unwrap();
            } else {
                let rule = Adafactor {
                    relative_step: true,
                    scale_parameter: true,
                    warmup_init: false,
                    weight_decay: 0.01,
                };
                tensors::adafactor(rule, &weight, &gradient, &moments, (0.5, 1e-2), step).unwrap();
            }
        }
        close(
            "weights",
            &weight,
            &Tensor::from_slice(&weights, &shape, &Device::Cpu).unwrap(),
            DType::F32,
        );
    }
    let bad = on(vec![1.0, f32::INFINITY], &[2]);
    let good = on(random(100_000, 1, 3.0), &[100_000]);
    let norms = tensors::squared_norms(&[&good, &bad]).unwrap();
    let expected: f64 = random(100_000, 1, 3.0)
        .iter()
        .map(|&x| f64::from(x).powi(2))
        .sum();
    assert!((norms[0] - expected).abs() < 1e-9 * expected && !norms[1].is_finite());
}

#[test]
fn decoding() {
    let Some(gpu) = gpu() else { return };
    let mut scores = random(3 * 29298, 1, 5.0);
    scores[29298 + 7] = f32::NAN;
    let on_cpu = Tensor::from_vec(scores, (3, 29298), &Device::Cpu).unwrap();
    let tokens = tensors::argmax(&on_cpu.to_device(&gpu).unwrap()).unwrap();
    let expected: Vec<u32> = on_cpu.argmax(D::Minus1).unwrap().to_vec1().unwrap();
    assert_eq!(
        [tokens[0], tokens[1], tokens[2]],
        [Some(expected[0]), None, Some(expected[2])]
    );
    for dtype in TYPES {
        let (rows, heads, room, width) = (3, 12, 40, 64);
        let q = tensor(&[rows, heads * width], 1, dtype);
        let [k, v] = [2, 3].map(|key| tensor(&[rows, heads, room, width], key, dtype));
        let on = |x: &Tensor| x.to_dtype(dtype).unwrap().to_device(&gpu).unwrap();
        let found =
            tensors::step_attention(&on(&q), &on(&k), &on(&v), None, &[40, 40, 40]).unwrap();
        let q = q.reshape((rows, heads, 1, width)).unwrap();
        let scores = q
            .matmul(&k.t().unwrap().contiguous().unwrap())
            .unwrap()
            .exp()
            .unwrap();
        let p = scores
            .broadcast_div(&scores.sum_keepdim(D::Minus1).unwrap())
            .unwrap();
        close("step", &found, &p.matmul(&v).unwrap(), dtype);
    }
}

#[test]
fn feedforward_and_embedding() {
    let Some(gpu) = gpu() else { return };
    for dtype in TYPES {
        let [x, y, g] = [1, 2, 3].map(|key| tensor(&[34, 200], key, dtype));
        let on = |x: &Tensor| x.to_dtype(dtype).unwrap().to_device(&gpu).unwrap();
        let places = Places {
            starts: &[0, 1, 34],
            drop: None,
        };
        let rows = Arc::new(Rows::new(&[1, 33]));
        close(
            "residual",
            &tensors::residual(&on(&x), &on(&y), places).unwrap(),
            &(&x + &y).unwrap(),
            dtype,
        );
        let result = tensors::relu(&on(&x), places).unwrap();
        close("relu", &result, &x.relu().unwrap(), dtype);
        let slope = (x.ge(0f32).unwrap().to_dtype(DType::F32).unwrap() * &g).unwrap();
        close(
            "relu dx",
            &tensors::relu_backward(&result, &on(&g), places).unwrap(),
            &slope,
            dtype,
        );
        let tape = Tape::new(Precision::F32);
        let (a, b) = (tape.leaf(x.clone()), tape.leaf(y.clone()));
        let out: Value = chatlm_kernels::gated_gelu(&tape, &a, &b, &rows, None).unwrap();
        close(
            "gated",
            &tensors::gated_gelu(&on(&x), &on(&y), places).unwrap(),
            out.tensor(),
            dtype,
        );
        let expected = tape
            .backward_to(
                &[&a, &b],
                vec![(out, g.clone())],
                &mut Gradients::new(vec![]),
            )
            .unwrap();
        let (dx, dy) = tensors::gated_gelu_backward([&on(&x), &on(&y), &on(&g)], places).unwrap();
        close("gated dx", &dx, &expected[0], dtype);
        close("gated dy", &dy, &expected[1], dtype);
        let ids = [3u32, 0, 3, 33];
        let list = Tensor::new(&ids, &Device::Cpu).unwrap();
        close(
            "rows",
            &tensors::embedding(&on(&x), &ids).unwrap(),
            &x.index_select(&list, 0).unwrap(),
            dtype,
        );
        let part = g.narrow(0, 0, 4).unwrap();
        let expected = x.zeros_like().unwrap().index_add(&list, &part, 0).unwrap();
        close(
            "table",
            &tensors::embedding_backward(&on(&part), &ids, 34).unwrap(),
            &expected,
            dtype,
        );
    }
}
