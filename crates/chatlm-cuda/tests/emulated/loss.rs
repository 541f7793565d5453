use crate::common::{
    Emulator, close, close_beside, differences, in_every_order, random, rounded, tolerance, wide,
};
use chatlm_cuda::Element;
use chatlm_cuda::loss::Loss;

const IGNORE: u32 = u32::MAX;

/// The loss of one row in f64.
fn plain(logits: &[f64], target: u32, smoothing: f64, scale: f64) -> f64 {
    let logits: Vec<f64> = logits.iter().map(|x| x * scale).collect();
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let norm = top + logits.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
    let mean = logits.iter().sum::<f64>() / logits.len() as f64;
    norm - (1.0 - smoothing) * logits[target as usize] - smoothing * mean
}

/// Its gradient.
fn slope(logits: &[f64], target: u32, smoothing: f64, scale: f64) -> Vec<f64> {
    let norm = plain(logits, target, 0.0, scale) + scale * logits[target as usize];
    let even = smoothing / logits.len() as f64;
    let hit = |at: usize| {
        if at == target as usize {
            1.0 - smoothing
        } else {
            0.0
        }
    };
    logits
        .iter()
        .enumerate()
        .map(|(at, x)| scale * ((scale * x - norm).exp() - even - hit(at)))
        .collect()
}

#[test]
fn losses_and_gradients_of_all_widths() {
    for (element, width, targets) in [
        (Element::F32, 1, vec![0]),
        (Element::F32, 2, vec![1, IGNORE, 0]),
        (Element::F32, 97, vec![0, 96, IGNORE, 41]),
        (Element::F16, 97, vec![5, 96]),
        (Element::BF16, 97, vec![5, IGNORE]),
        (Element::F32, 29298, vec![29297, 3]),
        (Element::BF16, 29298, vec![7]),
    ] {
        for (smoothing, scale, factor) in [(0.0f32, 1.0f32, 1.0f32), (0.1, 0.5, 3.0)] {
            let logits = rounded(element, &random(targets.len() * width, 1, 8.0));
            let run = |gradient: Option<f32>| {
                in_every_order(|on| {
                    let (memory, losses) =
                        (on.put(element, &logits), on.room(targets.len() as u64 * 4));
                    let loss = Loss {
                        element,
                        targets: &targets,
                        width,
                        ignore: IGNORE,
                        scale,
                    };
                    loss.cross_entropy(on, memory, smoothing, gradient, losses)
                        .unwrap();
                    vec![on.get(Element::F32, losses), on.get(element, memory)]
                })
            };
            let (forward, found) = (run(None), run(Some(factor)));
            assert_eq!(
                forward[0], found[0],
                "a loss does not depend on its gradient"
            );
            assert_eq!(forward[1], logits, "without a gradient logits stay");
            for (row, &target) in targets.iter().enumerate() {
                let line = wide(&logits[row * width..(row + 1) * width]);
                let gradient = &found[1][row * width..(row + 1) * width];
                if target == IGNORE {
                    assert!(found[0][row] == 0.0 && gradient.iter().all(|&x| x == 0.0));
                    continue;
                }
                let (smoothing, scale) = (f64::from(smoothing), f64::from(scale));
                let expected = plain(&line, target, smoothing, scale);
                close("loss", &found[0][row..=row], &[expected], 1e-5);
                let expected = slope(&line, target, smoothing, scale);
                if width <= 97 {
                    let differences = differences(&line, |x| plain(x, target, smoothing, scale));
                    let narrow: Vec<f32> = expected.iter().map(|&x| x as f32).collect();
                    close("slope", &narrow, &differences, 1e-6);
                }
                let expected: Vec<f64> = expected.iter().map(|x| x * f64::from(factor)).collect();
                // Chances are at most 1: a difference of two of them may be 0.
                let size = f64::from(factor) * scale;
                close_beside(
                    "gradient",
                    gradient,
                    &expected,
                    tolerance(element).max(1e-5),
                    size,
                );
            }
        }
    }
}

/// chatlm-kernels joins the same loss with the projection on the processor.
#[test]
fn equals_the_processors_projection() {
    use candle_core::{Device, Tensor};
    use chatlm_kernels::{Precision, Projection, Weight};
    let (rows, inner, width) = (5, 16, 97);
    let tensor = |x: Vec<f32>, shape| Tensor::from_vec(x, shape, &Device::Cpu).unwrap();
    let hidden = tensor(random(rows * inner, 1, 1.0), (rows, inner));
    let weight = tensor(random(width * inner, 2, 1.0), (width, inner));
    let targets = [1, 96, IGNORE, 0, 50];
    let twin = Weight::new(weight.clone(), None);
    let projection = Projection {
        weight: &twin,
        scale: 0.25,
        precision: Precision::F32,
    };
    let expected = projection
        .cross_entropy(&hidden, &targets, IGNORE, 0.1)
        .unwrap();
    let each = projection
        .log_probabilities(&hidden, &targets, IGNORE)
        .unwrap();
    let logits = hidden
        .matmul(&weight.t().unwrap())
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    let found = in_every_order(|on| {
        let out = on.room(rows as u64 * 4);
        let loss = Loss {
            element: Element::F32,
            targets: &targets,
            width,
            ignore: IGNORE,
            scale: 0.25,
        };
        loss.cross_entropy(on, on.f32(&logits), 0.1, None, out)
            .unwrap();
        let chances = on.room(rows as u64 * 4);
        loss.log_probabilities(on, on.f32(&logits), None, chances)
            .unwrap();
        vec![on.get(Element::F32, out), on.get(Element::F32, chances)]
    });
    let total: f32 = found[0].iter().sum();
    close("loss", &[total], &[expected], 1e-5);
    close("log-probabilities", &found[1], &wide(&each), 1e-5);
}

#[test]
fn log_probabilities_and_their_gradients() {
    let (width, targets, by) = (97, [3, IGNORE, 96], [0.5f32, 9.0, -2.0]);
    let logits = random(3 * width, 1, 5.0);
    let found = in_every_order(|on| {
        let (memory, out) = (on.f32(&logits), on.room(12));
        let loss = Loss {
            element: Element::F32,
            targets: &targets,
            width,
            ignore: IGNORE,
            scale: 1.0,
        };
        loss.log_probabilities(on, memory, Some(on.f32(&by)), out)
            .unwrap();
        vec![on.get(Element::F32, out), on.get(Element::F32, memory)]
    });
    for row in [0, 2] {
        let line = wide(&logits[row * width..(row + 1) * width]);
        close(
            "log-probability",
            &found[0][row..=row],
            &[-plain(&line, targets[row], 0.0, 1.0)],
            1e-5,
        );
        let expected: Vec<f64> = slope(&line, targets[row], 0.0, 1.0)
            .iter()
            .map(|x| -x * f64::from(by[row]))
            .collect();
        close(
            "gradient",
            &found[1][row * width..(row + 1) * width],
            &expected,
            1e-5,
        );
    }
    assert!(found[0][1] == 0.0 && found[1][width..2 * width].iter().all(|&x| x == 0.0));
}

#[test]
fn what_is_not_finite_shows_and_minus_infinity_is_a_zero_chance() {
    let on = Emulator::new(0);
    let loss = |logits: &[f32]| {
        let (memory, out) = (on.f32(logits), on.room(4));
        let loss = Loss {
            element: Element::F32,
            targets: &[0],
            width: logits.len(),
            ignore: IGNORE,
            scale: 1.0,
        };
        loss.cross_entropy(&on, memory, 0.0, None, out).unwrap();
        on.get(Element::F32, out)[0]
    };
    let mut logits = random(300, 1, 2.0);
    logits[299] = f32::NAN;
    assert!(loss(&logits).is_nan());
    logits[299] = f32::INFINITY;
    assert!(loss(&logits).is_nan());
    logits[299] = f32::NEG_INFINITY;
    close(
        "loss",
        &[loss(&logits)],
        &[plain(&wide(&logits[..299]), 0, 0.0, 1.0)],
        1e-6,
    );
    assert!(loss(&[f32::NEG_INFINITY; 40]).is_nan());
}

#[test]
fn a_target_outside_the_vocabulary_is_refused() {
    let on = Emulator::new(0);
    let loss = Loss {
        element: Element::F32,
        targets: &[97],
        width: 97,
        ignore: IGNORE,
        scale: 1.0,
    };
    let error = loss
        .cross_entropy(&on, on.room(97 * 4), 0.0, None, on.room(4))
        .unwrap_err();
    assert!(error.contains("target 97"), "{error}");
}
