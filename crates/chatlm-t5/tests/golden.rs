//! The numbers of transformers and PyTorch (`test/golden/t5/make.py`): logits, loss, every gradient.
#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "tests; bits are to be equal"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use chatlm_kernels::cross_entropy;
use chatlm_t5::{Config, Model, Parameters, Pass};

struct Golden {
    config: Config,
    tensors: BTreeMap<String, Tensor>,
}

fn golden(name: &str) -> Golden {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../test/golden/t5")
        .join(format!("{name}.safetensors"));
    let bytes = std::fs::read(&file).unwrap();
    let (_, meta) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let config = meta.metadata().as_ref().unwrap()["config"].clone();
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    Golden {
        config: serde_json::from_str(&config).unwrap(),
        tensors: tensors.into_iter().collect(),
    }
}

impl Golden {
    fn parameters(&self) -> Parameters {
        let weights = self
            .tensors
            .iter()
            .filter_map(|(name, t)| Some((name.strip_prefix("weight.")?.to_owned(), t.clone())))
            .collect();
        Parameters::from_tensors(&self.config, weights, &Device::Cpu).unwrap()
    }

    fn ids(&self, name: &str) -> Tensor {
        self.tensors[name].to_dtype(DType::U32).unwrap()
    }

    fn mask(&self) -> Tensor {
        self.tensors["mask"].to_dtype(DType::U8).unwrap()
    }

    fn scalar(&self, name: &str) -> f32 {
        self.tensors[name].to_vec1::<f32>().unwrap()[0]
    }
}

fn norm(t: &Tensor) -> f32 {
    t.sqr()
        .unwrap()
        .sum_all()
        .unwrap()
        .to_scalar::<f32>()
        .unwrap()
        .sqrt()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b)
        .unwrap()
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar()
        .unwrap()
}

#[test]
fn logits_loss_and_gradients_are_those_of_transformers() {
    for name in ["v10", "v11"] {
        let golden = golden(name);
        let parameters = golden.parameters();
        let model = Model::new(&golden.config, &parameters, None, true).unwrap();
        let (mask, pass) = (golden.mask(), Pass::inference());
        let encoded = model.encode(&golden.ids("source"), &mask, &pass).unwrap();
        let hidden = model
            .decode(&golden.ids("decoder"), &encoded, &mask, &pass)
            .unwrap();
        let logits = model.logits(&hidden).unwrap();
        assert!(
            largest_difference(&logits, &golden.tensors["logits"]) < 1e-4,
            "{name} logits"
        );

        let flat = logits.flatten_to(1).unwrap();
        let targets = golden.ids("target").flatten_all().unwrap();
        let smooth = cross_entropy(&flat, &targets, 0, 0.1)
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(
            (smooth / golden.scalar("smooth") - 1.0).abs() < 1e-5,
            "{name} smoothed loss"
        );

        let tokens = targets
            .to_vec1::<u32>()
            .unwrap()
            .iter()
            .filter(|&&t| t != 0)
            .count();
        let loss = (cross_entropy(&flat, &targets, 0, 0.0).unwrap() / tokens as f64).unwrap();
        let value = loss.to_scalar::<f32>().unwrap();
        assert!(
            (value - golden.scalar("loss")).abs() < 1e-5,
            "{name} loss {value}"
        );

        let grads = loss.backward().unwrap();
        let mut compared = 0;
        for (key, var) in parameters.iter() {
            let expected = &golden.tensors[&format!("grad.{key}")];
            let ours = grads.get(var).unwrap();
            let error = norm(&(ours - expected).unwrap()) / norm(expected);
            assert!(error < 1e-4, "{name} gradient of {key}: {error}");
            compared += 1;
        }
        assert!(compared > 30);
    }
}

#[test]
fn steps_with_a_cache_give_the_logits_of_teacher_forcing() {
    let golden = golden("v10");
    let model = Model::new(&golden.config, &golden.parameters(), None, false).unwrap();
    let (mask, pass) = (golden.mask(), Pass::inference());
    let encoded = model.encode(&golden.ids("source"), &mask, &pass).unwrap();
    let decoder = golden.ids("decoder");
    let mut cache = model.start(&encoded, &mask, &pass).unwrap();
    let keep = Tensor::new(&[2u32, 0], &Device::Cpu).unwrap();
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
        assert!(largest_difference(&logits, &expected) < 1e-4, "step {step}");
    }
    assert_eq!(cache.len(), 15);
}

#[test]
fn padding_and_the_future_have_no_influence() {
    let golden = golden("v11");
    let model = Model::new(&golden.config, &golden.parameters(), None, false).unwrap();
    let (mask, pass) = (golden.mask(), Pass::inference());
    let run = |source: &Tensor, decoder: &Tensor| {
        let encoded = model.encode(source, &mask, &pass).unwrap();
        model.decode(decoder, &encoded, &mask, &pass).unwrap()
    };
    let (source, decoder) = (golden.ids("source"), golden.ids("decoder"));
    let before = run(&source, &decoder);
    // Other ids under the padding, and in the decoder's future.
    let hidden = (mask
        .to_dtype(DType::F32)
        .unwrap()
        .affine(-1.0, 1.0)
        .unwrap()
        * 7.0)
        .unwrap();
    let source = (source.to_dtype(DType::F32).unwrap() + hidden)
        .unwrap()
        .to_dtype(DType::U32)
        .unwrap();
    let mut changed: Vec<Vec<u32>> = decoder.to_vec2().unwrap();
    for row in &mut changed {
        row[9..].fill(33);
    }
    let after = run(&source, &Tensor::new(changed, &Device::Cpu).unwrap());
    let seen = |t: &Tensor| t.narrow(1, 0, 9).unwrap();
    assert_eq!(largest_difference(&seen(&before), &seen(&after)), 0.0);
    assert!(largest_difference(&before, &after) > 1e-3);
}
