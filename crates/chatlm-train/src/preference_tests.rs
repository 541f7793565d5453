//! Preference losses over a whole model, against PyTorch's numbers (`test/golden/preference/model.py`).

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use chatlm_checkpoint::{load_adapter, load_model};
use serde_json::Value;

use super::tests::{Gathered, distance, preferred, settings};
use super::*;
use crate::{PreferenceSums, ReferenceBatch, preference_measures};

fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test/golden");
    folder.join(name)
}

/// The base, which is the policy where no adapter is trained.
fn trainer(case: &Value) -> Trainer {
    let mut changes = case["settings"].clone();
    changes["dropout"] = serde_json::json!(0);
    let mut settings = settings(changes);
    let mut base = load_model(&golden("lora/base"), &Device::Cpu).unwrap();
    let lora = case["lora"].as_bool().unwrap().then(|| {
        let path = golden("lora/adapter");
        let lora = load_adapter(&path, &base.config, &mut base.parameters).unwrap();
        LoraConfig {
            dropout: 0.0,
            ..lora
        }
    });
    settings.lora.clone_from(&lora);
    base.config.dropout_rate = 0.0;
    Trainer::new(&settings, base.config, base.parameters, lora, 1).unwrap()
}

/// Some of the golden pairs.
fn pairs(all: &[Value], reference: &[Vec<f32>], part: std::ops::Range<usize>) -> PreferenceBatch {
    let rows = |name: &str| -> Vec<Vec<u32>> {
        let rows = all[part.clone()].iter();
        rows.map(|pair| serde_json::from_value(pair[name].clone()).unwrap())
            .collect()
    };
    let keys: Vec<u64> = part.clone().map(|row| row as u64).collect();
    let side = |name: &str| {
        SequenceBatch::new(&keys, &rows("source"), &rows(name), 0, &Device::Cpu).unwrap()
    };
    PreferenceBatch {
        chosen: side("chosen"),
        rejected: side("rejected"),
        reference: Some(ReferenceBatch {
            chosen: reference[0][part.clone()].to_vec(),
            rejected: reference[1][part.clone()].to_vec(),
        }),
    }
}

fn agree(case: &str, got: &PreferenceMeasures, want: &Value) {
    for (name, value) in [
        ("loss", got.loss),
        ("chosen", got.chosen),
        ("rejected", got.rejected),
        ("margins", got.margins),
        ("accuracies", got.accuracies),
        ("logps_chosen", got.logps_chosen),
        ("logps_rejected", got.logps_rejected),
        ("nll_loss", got.nll_loss),
        ("log_odds_ratio", got.log_odds_ratio),
        ("log_odds_chosen", got.log_odds_chosen),
    ] {
        let want = want[name].as_f64().unwrap();
        let error = (value - want).abs() / want.abs().max(1.0);
        assert!(error < 1e-5, "{case}, {name}: {value} {want}");
    }
}

#[test]
fn measures_and_gradients_of_a_model_are_pytorchs() {
    let file: Value =
        serde_json::from_slice(&fs::read(golden("preference/model.json")).unwrap()).unwrap();
    let tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(golden("preference/model.safetensors"), &Device::Cpu)
            .unwrap();
    let all = file["pairs"].as_array().unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!((all.len(), cases.len()), (7, 14));
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let lora = case["lora"].as_bool().unwrap();
        let reference: Vec<Vec<f32>> = tensors[if lora { "reference-lora" } else { "reference" }]
            .to_vec2()
            .unwrap();
        let trainer = trainer(case);
        let whole = pairs(all, &reference, 0..7);

        // The reference of an adapter is the same weights with it off.
        if lora {
            let model = trainer.model().unwrap();
            let pass = chatlm_t5::Pass {
                adapter: false,
                ..chatlm_t5::Pass::inference()
            };
            for (side, want) in [&whole.chosen, &whole.rejected].into_iter().zip(&reference) {
                let got = crate::sequence_log_probabilities(&model, side, &pass).unwrap();
                let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5 * b.abs().max(1.0);
                assert!(got.iter().zip(want).all(near), "{name}: {got:?} {want:?}");
            }
        }

        let wanted: Gathered = tensors
            .iter()
            .filter_map(|(key, tensor)| {
                let key = key.strip_prefix(&format!("{name}/"))?;
                Some((
                    key.to_owned(),
                    tensor.flatten_all().unwrap().to_vec1().unwrap(),
                ))
            })
            .collect();
        let parts = [0..2, 2..3, 3..7].map(|part| pairs(all, &reference, part));
        for micro in [std::slice::from_ref(&whole), &parts] {
            let (measures, gradients) = preferred(&trainer, micro);
            agree(name, &measures, &case["measures"]);
            let error = distance(&wanted, &gradients);
            assert!(error < 1e-4, "{name}: {error}");
        }
        // As evaluations measure them: batch by batch, and the means of all.
        let model = trainer.model().unwrap();
        agree(
            name,
            &preference_measures(&model, &whole, &trainer.settings).unwrap(),
            &case["measures"],
        );
        let mut sums = PreferenceSums::new(crate::Objective::of(&trainer.settings));
        for part in &parts {
            sums.add_batch(&model, part).unwrap();
        }
        agree(name, &sums.means(), &case["measures"]);
    }
}
