//! The numbers of transformers and PyTorch (`test/golden/t5/make.py`): logits, loss, every gradient.
#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "tests; bits are to be equal"
)]

mod common;

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use chatlm_kernels::testing::device;
use chatlm_t5::{Config, Model, Parameters, Pass, Precision, Sequences, Tape};

use common::{Batch, How, NOTHING, Trained, difference, distance, hidden, values};

struct Golden {
    config: Config,
    tensors: BTreeMap<String, Tensor>,
}

fn golden(name: &str) -> Golden {
    let (config, tensors) = common::golden(name);
    Golden {
        config: serde_json::from_str(&config).unwrap(),
        tensors,
    }
}

impl Golden {
    fn parameters(&self) -> Parameters {
        common::weights(&self.config, &self.tensors, "weight.")
    }

    fn ids(&self, name: &str) -> Tensor {
        self.tensors[name].to_dtype(DType::U32).unwrap()
    }

    fn source(&self) -> Sequences {
        Sequences::padded(&self.ids("source"), &self.tensors["mask"]).unwrap()
    }

    /// All rows as transformers had them, the targets padded to the longest.
    fn padded(&self) -> Batch {
        let decoder = self.ids("decoder");
        let target = Sequences::padded(&decoder, &decoder.ones_like().unwrap());
        let labels: Vec<u32> = self.ids("target").flatten_all().unwrap().to_vec1().unwrap();
        Batch {
            source: self.source(),
            target: target.unwrap(),
            labels: labels
                .iter()
                .map(|&id| if id == 0 { NOTHING } else { id })
                .collect(),
            keys: Vec::new(),
        }
    }

    /// The rows as training lays them, without padding.
    fn laid(&self) -> Batch {
        let targets: Vec<Vec<u32>> = self.ids("target").to_vec2().unwrap();
        let real = |row: &Vec<u32>| row.iter().copied().take_while(|&id| id != 0).collect();
        let targets: Vec<Vec<u32>> = targets.iter().map(real).collect();
        Batch {
            source: self.source(),
            ..Batch::new(&targets, &targets)
        }
    }

    fn scalar(&self, name: &str) -> f64 {
        f64::from(self.tensors[name].to_vec1::<f32>().unwrap()[0])
    }
}

#[test]
fn logits_loss_and_gradients_are_those_of_transformers() {
    for name in ["v10", "v11"] {
        let golden = golden(name);
        let parameters = golden.parameters();
        let trained = Trained::all(&golden.config, &parameters);
        let (model, how) = (&trained.model, How::plain());
        let padded = golden.padded();
        let logits = model.logits(&hidden(model, &padded, &how.pass)).unwrap();
        let apart = difference(&logits, &golden.tensors["logits"]);
        assert!(apart < 1e-4, "{name} logits {apart}");

        for batch in [padded, golden.laid()] {
            let smooth = model
                .projection(Precision::F32)
                .cross_entropy(
                    &hidden(model, &batch, &how.pass),
                    &batch.labels,
                    NOTHING,
                    0.1,
                )
                .unwrap();
            let apart = (smooth / golden.scalar("smooth") - 1.0).abs();
            assert!(apart < 1e-5, "{name} smoothed loss: {apart}");

            let (loss, gradients) = trained.passed(&batch, &how);
            assert!(
                (loss - golden.scalar("loss")).abs() < 1e-5,
                "{name} loss {loss}"
            );
            assert!(gradients.len() > 30 && gradients.len() == parameters.iter().count());
            for (key, ours) in &gradients {
                let apart = distance(ours, &values(&golden.tensors[&format!("grad.{key}")]));
                assert!(apart < 1e-4, "{name} gradient of {key}: {apart}");
            }
        }
    }
}

#[test]
fn steps_with_a_cache_give_the_logits_of_teacher_forcing() {
    for name in ["v10", "v11"] {
        let golden = golden(name);
        let model = Model::new(&golden.config, &golden.parameters(), None).unwrap();
        let (source, pass) = (golden.source(), Pass::inference());
        let encoded = model
            .encode(&Tape::off(Precision::F32), &source, &pass)
            .unwrap();
        let decoder = golden.ids("decoder");
        let mut cache = model.start(&encoded, &source.rows, &pass).unwrap();
        let keep = Tensor::new(&[2u32, 0], &device()).unwrap();
        let mut ids = decoder.clone();
        let mut expected = golden.tensors["logits"].clone();
        for step in 0..15 {
            if step == 5 {
                // Rows may leave: row 1 goes, the others change places.
                cache.select(&keep).unwrap();
                ids = ids.index_select(&keep, 0).unwrap();
                expected = expected.index_select(&keep, 0).unwrap();
            }
            let logits = model
                .step(&ids.narrow(1, step, 1).unwrap(), &mut cache, &pass)
                .unwrap();
            let expected = expected.narrow(1, step, 1).unwrap().squeeze(1).unwrap();
            assert!(difference(&logits, &expected) < 1e-4, "{name} step {step}");
        }
        assert_eq!(cache.len(), 15);
    }
}

#[test]
fn padding_and_the_future_have_no_influence() {
    let golden = golden("v11");
    let model = Model::new(&golden.config, &golden.parameters(), None).unwrap();
    let pass = Pass::inference();
    let run = |source: &Tensor, decoder: &Tensor| {
        let batch = Batch {
            source: Sequences::padded(source, &golden.tensors["mask"]).unwrap(),
            target: Sequences::padded(decoder, &decoder.ones_like().unwrap()).unwrap(),
            labels: Vec::new(),
            keys: Vec::new(),
        };
        hidden(&model, &batch, &pass)
            .reshape((3, 15, golden.config.d_model))
            .unwrap()
    };
    let (source, decoder) = (golden.ids("source"), golden.ids("decoder"));
    let before = run(&source, &decoder);
    // Other ids under the padding, and in the decoder's future.
    let mask = golden.tensors["mask"].to_dtype(DType::F32).unwrap();
    let covered = (mask.affine(-1.0, 1.0).unwrap() * 7.0).unwrap();
    let source = (source.to_dtype(DType::F32).unwrap() + covered)
        .unwrap()
        .to_dtype(DType::U32)
        .unwrap();
    let mut changed: Vec<Vec<u32>> = decoder.to_vec2().unwrap();
    for row in &mut changed {
        row[9..].fill(33);
    }
    let after = run(&source, &Tensor::new(changed, &device()).unwrap());
    let seen = |t: &Tensor| t.narrow(1, 0, 9).unwrap();
    assert_eq!(difference(&seen(&before), &seen(&after)), 0.0);
    assert!(difference(&before, &after) > 1e-3);
}

#[test]
fn only_the_end_of_a_row_may_be_masked() {
    let ids = Tensor::new(&[[5u32, 6, 7], [8, 9, 0]], &device()).unwrap();
    let mask = |mask: [[u8; 3]; 2]| Tensor::new(&mask, &device()).unwrap();
    let laid = Sequences::padded(&ids, &mask([[1, 1, 1], [1, 1, 0]])).unwrap();
    assert_eq!(laid.ids.to_vec1::<u32>().unwrap(), [5, 6, 7, 8, 9]);
    let lengths = [laid.rows.length(0), laid.rows.length(1)];
    assert_eq!((laid.rows.count(), lengths), (2, [3, 2]));
    for hole in [[[1, 0, 1], [1, 1, 0]], [[1, 1, 1], [0, 1, 0]]] {
        assert!(Sequences::padded(&ids, &mask(hole)).is_err());
    }
}
