use crate::common::{Emulator, close, in_every_order, random, rounded, wide};
use chatlm_cuda::adafactor::{Adafactor, Factors};
use chatlm_cuda::adamw::AdamW;
use chatlm_cuda::{Element, adafactor, adamw, sums};
use chatlm_optim::{Optimizer, OptimizerConfig};

const STEPS: u64 = 4;

/// Weights after some steps of chatlm-optim on the processor.
fn processor(
    config: OptimizerConfig,
    shape: &[usize],
    element: Element,
    scale: f32,
    rate: f64,
) -> Vec<f64> {
    let count = shape.iter().product();
    let mut optimizer = Optimizer::new(config, &[("w".to_owned(), shape.to_vec())]);
    let mut weights = random(count, 1, 1.0);
    for step in 1..=STEPS {
        optimizer.begin_step();
        let gradient = rounded(element, &random(count, 10 + step, 0.5));
        optimizer.update(0, &mut weights, &gradient, scale, rate);
    }
    wide(&weights)
}

#[test]
fn adamw_is_the_processors() {
    for (count, element) in [
        (1, Element::F32),
        (1000, Element::F32),
        (40_001, Element::F16),
        (33, Element::BF16),
    ] {
        let config = OptimizerConfig::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            scale_parameter: false,
        };
        let expected = processor(config, &[count], element, 0.5, 1e-2);
        let found = in_every_order(|on| {
            let rule = AdamW {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.01,
            };
            let zeros = || on.f32(&vec![0.0; count]);
            let (weight, first, second) = (on.f32(&random(count, 1, 1.0)), zeros(), zeros());
            for step in 1..=STEPS {
                let gradient = on.put(element, &random(count, 10 + step, 0.5));
                let of = adamw::Weight {
                    count,
                    weight,
                    gradient,
                    element,
                    first,
                    second,
                };
                rule.update(on, &of, 0.5, 1e-2, step).unwrap();
            }
            vec![on.get(Element::F32, weight)]
        });
        close("weights", &found[0], &expected, 1e-6);
    }
}

fn adafactors(shape: &[usize], element: Element, relative_step: bool, scale_parameter: bool) {
    let count: usize = shape.iter().product();
    let config = OptimizerConfig::Adafactor {
        relative_step,
        scale_parameter,
        warmup_init: true,
        weight_decay: 0.02,
    };
    let expected = processor(config, shape, element, 0.7, 3e-2);
    let rule = Adafactor {
        relative_step,
        scale_parameter,
        warmup_init: true,
        weight_decay: 0.02,
    };
    let found = in_every_order(|on| {
        let weight = on.f32(&random(count, 1, 1.0));
        let zeros = |count| on.f32(&vec![0.0; count]);
        let factors = match *shape {
            [rows, columns] => Factors::Matrix {
                rows,
                columns,
                row: zeros(rows),
                column: zeros(columns),
            },
            _ => Factors::Whole {
                count,
                second: zeros(count),
            },
        };
        for step in 1..=STEPS {
            let gradient = on.put(element, &random(count, 10 + step, 0.5));
            rule.update(
                on,
                &adafactor::Weight {
                    weight,
                    gradient,
                    element,
                    factors,
                },
                0.7,
                3e-2,
                step,
            )
            .unwrap();
        }
        vec![on.get(Element::F32, weight)]
    });
    close("weights", &found[0], &expected, 3e-6);
}

#[test]
fn adafactor_is_the_processors() {
    for (relative, scaled) in [(true, true), (false, false), (false, true)] {
        adafactors(&[5, 33], Element::F32, relative, scaled);
        adafactors(&[1, 1], Element::F32, relative, scaled);
        adafactors(&[130, 300], Element::F32, relative, scaled);
        adafactors(&[97], Element::F32, relative, scaled);
        adafactors(&[40_000], Element::F32, relative, scaled);
    }
    adafactors(&[66, 31], Element::F16, true, true);
    adafactors(&[66, 31], Element::BF16, true, true);
}

#[test]
fn a_norm_is_exact_in_f64_and_finite_only_where_all_is() {
    for (element, count) in [
        (Element::F32, 1),
        (Element::F32, 100_001),
        (Element::F16, 33),
        (Element::BF16, 40_000),
    ] {
        let mut x = rounded(element, &random(count, 1, 3e4));
        let expected: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let on = Emulator::new(1);
        let out = on.zeros_of(3);
        let norm = |x: &[f32]| {
            sums::squared_norm(&on, element, on.put(element, x), count, out, 1).unwrap();
            let found = on.get_f64(out);
            assert!(
                found[0] == 0.0 && found[2] == 0.0,
                "only its own place is written"
            );
            found[1]
        };
        let found = norm(&x);
        assert!(
            (found - expected).abs() <= 1e-12 * expected,
            "{found} {expected}"
        );
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x[count / 2] = bad;
            assert!(!norm(&x).is_finite());
        }
    }
    // The largest f32 itself overflows nothing.
    let on = Emulator::new(0);
    let out = on.zeros_of(1);
    sums::squared_norm(&on, Element::F32, on.f32(&[f32::MAX; 500]), 500, out, 0).unwrap();
    assert!(on.get_f64(out)[0].is_finite());
}

#[test]
fn updates_from_nan_are_nan() {
    let on = Emulator::new(0);
    let (weight, zeros) = (on.f32(&[1.0; 40]), on.f32(&[0.0; 40]));
    let mut g = vec![0.1; 40];
    g[7] = f32::NAN;
    let rule = Adafactor {
        relative_step: true,
        scale_parameter: true,
        warmup_init: false,
        weight_decay: 0.0,
    };
    let factors = Factors::Whole {
        count: 40,
        second: zeros,
    };
    let of = adafactor::Weight {
        weight,
        gradient: on.f32(&g),
        element: Element::F32,
        factors,
    };
    rule.update(&on, &of, 1.0, 0.0, 1).unwrap();
    // The update's root mean square is NaN, as on the processor: so all is, and nothing hides it.
    assert!(on.get(Element::F32, weight).iter().all(|x| x.is_nan()));
}
