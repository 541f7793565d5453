//! Losses of hidden states by their projection against those of whole logits.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use candle_core::{DType, Tensor};
use chatlm_kernels::testing::device;
use chatlm_kernels::{Gradients, Precision, Projection, Weight, plain};

use common::{
    Found, HEIGHTS, NEAR, WIDTHS, bits, close, gathered, random, reference, same_slope, slope,
    values,
};

/// A projection and what it is asked for.
#[derive(Clone)]
struct Case {
    hidden: Tensor,
    weight: Tensor,
    targets: Vec<u32>,
    ignore: u32,
    smoothing: f64,
    factor: f64,
    scale: f64,
    precision: Precision,
}

impl Case {
    fn new(height: usize, inner: usize, words: usize) -> Self {
        Self {
            hidden: random(1, &[height, inner]),
            weight: random(2, &[words, inner]),
            targets: (0..height)
                .map(|place| (place * 5 % words) as u32)
                .collect(),
            ignore: u32::MAX,
            smoothing: 0.0,
            factor: 1.0,
            scale: 1.0 / (inner as f64).sqrt(),
            precision: Precision::F32,
        }
    }

    fn in_f64(&self) -> Self {
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        Self {
            hidden: wide(&self.hidden),
            weight: wide(&self.weight),
            ..self.clone()
        }
    }

    fn by(&self) -> Vec<f32> {
        random(3, &[self.targets.len()]).to_vec1().unwrap()
    }

    fn with<R>(&self, run: impl FnOnce(&Projection<'_>, &mut Gradients<'_>) -> R) -> (R, Found) {
        let mut gradients = Gradients::new(vec![self.weight.elem_count()]);
        let weight = Weight::new(self.weight.clone(), Some(0));
        let projection = Projection {
            weight: &weight,
            scale: self.scale,
            precision: self.precision,
        };
        let result = run(&projection, &mut gradients);
        (result, gathered(&gradients, &[&self.weight]))
    }

    fn loss(&self) -> f64 {
        let run = |projection: &Projection<'_>| {
            projection.cross_entropy(&self.hidden, &self.targets, self.ignore, self.smoothing)
        };
        self.with(|projection, _| run(projection)).0.unwrap()
    }

    /// Loss and gradients.
    fn cross_entropy(&self) -> Found {
        let ((loss, dx), dw) = self.with(|projection, gradients| {
            let (targets, ignore) = (&self.targets, self.ignore);
            projection
                .cross_entropy_backward(
                    &self.hidden,
                    targets,
                    ignore,
                    self.smoothing,
                    self.factor,
                    gradients,
                )
                .unwrap()
        });
        [vec![vec![loss], values(&dx)], dw].concat()
    }

    fn scores(&self) -> Vec<f32> {
        self.with(|projection, _| {
            projection.log_probabilities(&self.hidden, &self.targets, self.ignore)
        })
        .0
        .unwrap()
    }

    /// Log-probabilities and gradients.
    fn log_probabilities(&self) -> Found {
        let (dx, dw) = self.with(|projection, gradients| {
            let by = self.by();
            projection
                .log_probabilities_backward(
                    &self.hidden,
                    &self.targets,
                    self.ignore,
                    &by,
                    gradients,
                )
                .unwrap()
        });
        let scores = self
            .scores()
            .iter()
            .map(|&score| f64::from(score))
            .collect();
        [vec![scores, values(&dx)], dw].concat()
    }

    fn check(&self, what: &str) {
        let targets = Tensor::new(self.targets.as_slice(), &device()).unwrap();
        let logits = |x: &Tensor, w: &Tensor| plain::linear(x, w)? * self.scale;
        // The reference's seed is of a scalar here, and no part of ours.
        let seed: f64 = values(&common::seed(&Tensor::new(1.0f64, &device()).unwrap()))[0];
        let mut loss = reference(&[&self.hidden], &[&self.weight], |x, w| {
            let logits = logits(&x[0], &w[0])?;
            plain::cross_entropy(&logits, &targets, self.ignore, self.smoothing)? * self.factor
        });
        loss[0][0] /= self.factor;
        loss[1..]
            .iter_mut()
            .flatten()
            .for_each(|gradient| *gradient /= seed);
        let by = Tensor::new(self.by(), &device()).unwrap();
        let scores = reference(&[&self.hidden], &[&self.weight], |x, w| {
            plain::log_probabilities(&logits(&x[0], &w[0])?, &targets, self.ignore)
        });
        let sums = reference(&[&self.hidden], &[&self.weight], |x, w| {
            let scores = plain::log_probabilities(&logits(&x[0], &w[0])?, &targets, self.ignore)?;
            (scores * by.to_dtype(DType::F64)?)?.sum_all()
        });
        let mut scores = vec![scores[0].clone()];
        scores.extend(sums[1..].iter().map(|gradient| {
            let gradient = gradient.iter();
            gradient.map(|gradient| gradient / seed).collect()
        }));
        for (kind, case) in [("kernel", self.clone()), ("twin", self.in_f64())] {
            let what = format!("{what}, {kind}");
            close(
                &format!("{what}, cross-entropy"),
                &case.cross_entropy(),
                &loss,
                NEAR,
            );
            close(
                &format!("{what}, scores"),
                &case.log_probabilities(),
                &scores,
                NEAR,
            );
            close(&what, &vec![vec![case.loss()]], &loss[..1].to_vec(), NEAR);
        }
        assert_eq!(self.loss().to_bits(), self.cross_entropy()[0][0].to_bits());
    }
}

#[test]
fn they_are_those_of_the_logits() {
    for height in HEIGHTS {
        for words in WIDTHS {
            for inner in [1, 17, 64] {
                let case = Case::new(height, inner, words);
                let what = format!("({height}, {inner}) onto {words}");
                case.check(&what);
                // Target 0 is there, and does not count.
                let ignored = Case { ignore: 0, ..case };
                ignored.check(&format!("{what}, ignored"));
                let smooth = Case {
                    smoothing: 0.1,
                    factor: 0.25,
                    scale: 1.0,
                    ..ignored
                };
                smooth.check(&format!("{what}, smooth"));
            }
        }
    }
    Case::new(3, 513, 17).check("a deep product");
}

#[test]
fn several_chunks_of_rows_are_one_loss() {
    let case = Case {
        smoothing: 0.1,
        ignore: 5,
        ..Case::new(500, 2, 9000)
    };
    case.check("500 rows of 9000");
}

#[test]
fn bf16_is_near() {
    let case = Case {
        smoothing: 0.1,
        ..Case::new(17, 64, 513)
    };
    let narrow = Case {
        precision: Precision::Bf16,
        ..case.clone()
    };
    assert_ne!(narrow.loss().to_bits(), case.loss().to_bits());
    close(
        "cross-entropy",
        &narrow.cross_entropy(),
        &case.cross_entropy(),
        2e-2,
    );
    close(
        "scores",
        &narrow.log_probabilities(),
        &case.log_probabilities(),
        2e-2,
    );
}

#[test]
fn gradients_are_finite_differences() {
    let case = Case {
        smoothing: 0.2,
        ignore: 0,
        factor: 0.5,
        ..Case::new(4, 3, 7)
    };
    let (loss, scores) = (case.cross_entropy(), case.log_probabilities());
    let by = case.by();
    let sum = |case: &Case| -> f64 {
        let scores = case.scores();
        scores
            .iter()
            .zip(&by)
            .map(|(&score, &by)| f64::from(score * by))
            .sum()
    };
    let moved = |hidden: bool, t: &Tensor| {
        let mut case = case.clone();
        *(if hidden {
            &mut case.hidden
        } else {
            &mut case.weight
        }) = t.clone();
        case
    };
    for (n, hidden, tensor) in [(1, true, &case.hidden), (2, false, &case.weight)] {
        for place in 0..tensor.elem_count() {
            let expected = slope(tensor, place, |t| moved(hidden, t).loss() * case.factor);
            same_slope("cross-entropy", place, loss[n][place], expected);
            let expected = slope(tensor, place, |t| sum(&moved(hidden, t)));
            same_slope("log-probabilities", place, scores[n][place], expected);
        }
    }
}

#[test]
fn rows_that_are_all_ignored_or_none_at_all_are_no_trouble() {
    let ignored = Case {
        targets: vec![7; 5],
        ignore: 7,
        smoothing: 0.1,
        ..Case::new(5, 4, 9)
    };
    for case in [ignored, Case::new(0, 4, 9)] {
        for found in [case.cross_entropy(), case.log_probabilities()] {
            assert!(found.iter().flatten().all(|&value| value == 0.0));
        }
    }
}

#[test]
fn an_ignored_row_changes_nothing() {
    let case = Case {
        smoothing: 0.1,
        ..Case::new(6, 8, 9)
    };
    let more = Case {
        hidden: Tensor::cat(&[&case.hidden, &random(8, &[2, 8])], 0).unwrap(),
        targets: [case.targets.clone(), vec![u32::MAX; 2]].concat(),
        ..case.clone()
    };
    let (few, many) = (case.cross_entropy(), more.cross_entropy());
    assert_eq!(bits(&vec![few[0].clone()]), bits(&vec![many[0].clone()]));
    assert!(many[1][6 * 8..].iter().all(|&gradient| gradient == 0.0));
    close(
        "gradient of the weight",
        &vec![many[2].clone()],
        &vec![few[2].clone()],
        1e-6,
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = Case::new(3, 4, 9);
    let refused = |hidden: &Tensor, targets: &[u32], by: &[f32]| {
        case.with(|projection, gradients| {
            let loss = projection.cross_entropy(hidden, targets, 99, 0.0).is_err();
            let scores = projection.log_probabilities(hidden, targets, 99).is_err();
            let backward = projection
                .log_probabilities_backward(hidden, targets, 99, by, gradients)
                .is_err();
            (loss && scores, backward)
        })
        .0
    };
    let x = &case.hidden;
    assert_eq!(refused(x, &[1, 99, 8], &[1.0; 3]), (false, false));
    assert_eq!(refused(x, &[1, 99, 9], &[1.0; 3]), (true, true));
    assert_eq!(refused(x, &[1, 99], &[1.0; 2]), (true, true));
    assert_eq!(refused(x, &[1, 99, 8], &[1.0; 2]), (false, true));
    assert_eq!(
        refused(&random(1, &[3, 5]), &[1, 2, 3], &[1.0; 3]),
        (true, true)
    );
}
