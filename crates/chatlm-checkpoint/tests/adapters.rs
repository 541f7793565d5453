//! PEFT's variants of LoRA against the numbers of `test/golden/lora/variants.py`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use chatlm_checkpoint::{
    load_adapter, load_model, merge, read_safetensors, save_adapter, to_safetensors, unmerge,
};
use chatlm_job::Code;
use chatlm_t5::{
    Config, Gradients, LoraConfig, Model, Parameters, Pass, Precision, Sequences, Tape, Value,
    cpu::twins_only, has_kernels, is_adapter,
};
use serde_json::Value as Json;

const VARIANTS: [&str; 7] = [
    "rslora",
    "dora",
    "dora-rslora",
    "patterns",
    "layers",
    "second",
    "regex",
];

fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test/golden/lora");
    folder.join(name)
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Json) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn inputs() -> (Sequences, Sequences) {
    let expected = json(&golden("expected.json"));
    let rows = |name: &str| -> Sequences {
        let rows: Vec<Vec<u32>> = serde_json::from_value(expected[name].clone()).unwrap();
        Sequences::new(&rows, &Device::Cpu).unwrap()
    };
    (rows("source"), rows("target"))
}

fn hidden(tape: &Tape, model: &Model) -> Value {
    let (source, target) = inputs();
    let pass = Pass::inference();
    let encoded = model.encode(tape, &source, &pass).unwrap();
    model
        .decode(tape, &target, &encoded, &source.rows, &pass)
        .unwrap()
}

fn logits(config: &Config, parameters: &Parameters, lora: Option<&LoraConfig>) -> Vec<f32> {
    let model = Model::new(config, parameters, lora).unwrap();
    let hidden = hidden(&Tape::off(Precision::F32), &model);
    let scores = model.logits(hidden.tensor()).unwrap();
    scores.flatten_all().unwrap().to_vec1().unwrap()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

fn with_adapter(name: &str) -> (Config, Parameters, LoraConfig) {
    let mut folder = load_model(&golden("base"), &Device::Cpu).unwrap();
    let dir = golden("variants").join(name);
    let lora = load_adapter(&dir, &folder.config, &mut folder.parameters).unwrap();
    (folder.config, folder.parameters, lora)
}

#[test]
fn every_variant_has_pefts_logits_and_pefts_merge() {
    let expected = json(&golden("variants.json"));
    for name in VARIANTS {
        let want = &expected["variants"][name];
        let (config, mut parameters, lora) = with_adapter(name);
        let got = logits(&config, &parameters, Some(&lora));
        assert!(worst(&got, &numbers(&want["logits"])) < 1e-5, "{name}");
        merge(&mut parameters, &lora).unwrap();
        assert!(!parameters.iter().any(|(name, _)| is_adapter(name)));
        let merged = logits(&config, &parameters, None);
        assert!(worst(&merged, &numbers(&want["merged"])) < 1e-5, "{name}");
    }
}

#[test]
fn every_variant_has_pefts_gradients_and_its_own_alone() {
    let expected = json(&golden("variants.json"));
    let labels: Vec<Vec<u32>> = serde_json::from_value(expected["labels"].clone()).unwrap();
    let labels = labels.concat();
    for twins in [false, true] {
        let _twins = twins.then(twins_only);
        for name in VARIANTS {
            let (config, parameters, lora) = with_adapter(name);
            let trained: Vec<(String, usize)> = parameters
                .iter()
                .filter(|(name, _)| lora.trains(name))
                .map(|(name, var)| (name.to_owned(), var.elem_count()))
                .collect();
            let place = |name: &str| trained.iter().position(|(trained, _)| trained == name);
            let model = Model::with_trainable(&config, &parameters, Some(&lora), &place).unwrap();
            let sizes = trained.iter().map(|(_, size)| *size).collect();
            let mut gradients = if has_kernels(&Device::Cpu) {
                Gradients::new(sizes)
            } else {
                Gradients::on_device(sizes)
            };
            let tape = Tape::new(Precision::F32);
            let hidden = hidden(&tape, &model);
            let (_, seed) = model
                .projection(Precision::F32)
                .cross_entropy_backward(
                    hidden.tensor(),
                    &labels,
                    u32::MAX,
                    0.0,
                    1.0 / labels.len() as f64,
                    &mut gradients,
                )
                .unwrap();
            tape.backward(vec![(hidden, seed)], &mut gradients).unwrap();
            let want = expected["variants"][name]["gradients"].as_object().unwrap();
            assert_eq!(want.len(), trained.len(), "{name}");
            for (index, (weight, _)) in trained.iter().enumerate() {
                let got = if gradients.are_tensors() {
                    let tensor = gradients.tensor(index).unwrap();
                    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
                } else {
                    gradients.get(index).unwrap().to_vec()
                };
                let want = numbers(&want[weight]);
                assert_eq!(got.len(), want.len(), "{name} {weight}");
                let norm = |values: &mut dyn Iterator<Item = f32>| -> f64 {
                    values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
                };
                let distance = norm(&mut got.iter().zip(&want).map(|(a, b)| a - b));
                let whole = norm(&mut want.iter().copied());
                assert!(
                    distance <= 1e-4 * whole + 1e-9,
                    "{name} {weight}: {distance} of {whole}"
                );
            }
        }
    }
}

/// With CHATLM_ADAPTERS_OUT the folders stay there, for `variants.py --check`.
#[test]
fn every_variant_goes_back_to_peft_as_it_came() {
    let place = tempfile::tempdir().unwrap();
    let place = std::env::var_os("CHATLM_ADAPTERS_OUT")
        .map_or_else(|| place.path().to_owned(), PathBuf::from);
    for name in VARIANTS {
        let (_, parameters, lora) = with_adapter(name);
        let (ours, theirs) = (place.join(name), golden("variants").join(name));
        fs::create_dir_all(&ours).unwrap();
        save_adapter(&ours, &lora, &parameters, "base").unwrap();
        let bytes = |dir: &Path| {
            let file = dir.join("adapter_model.safetensors");
            to_safetensors(&read_safetensors(&file, Code::ModelInvalid, &Device::Cpu).unwrap())
                .unwrap()
        };
        assert_eq!(bytes(&ours), bytes(&theirs), "{name}");
        let config = |dir: &Path| json(&dir.join("adapter_config.json"));
        let (ours, theirs) = (config(&ours), config(&theirs));
        for (key, value) in ours.as_object().unwrap() {
            if value.is_number() {
                assert_eq!(value.as_f64(), theirs[key].as_f64(), "{name} {key}");
            } else if key != "target_modules" || name != "dora-rslora" {
                assert_eq!(value, &theirs[key], "{name} {key}");
            }
        }
    }
}

#[test]
fn what_was_merged_can_be_taken_off_but_dora() {
    let base = load_model(&golden("base"), &Device::Cpu).unwrap();
    let before = logits(&base.config, &base.parameters, None);
    for name in VARIANTS {
        let (config, mut parameters, lora) = with_adapter(name);
        merge(&mut parameters, &lora).unwrap();
        assert!(worst(&logits(&config, &parameters, None), &before) > 1e-3);
        load_adapter(&golden("variants").join(name), &config, &mut parameters).unwrap();
        let found = unmerge(&mut parameters, &lora);
        if lora.use_dora {
            assert_eq!(found.unwrap_err().code(), Code::Usage);
        } else {
            found.unwrap();
            assert!(
                worst(&logits(&config, &parameters, None), &before) < 1e-5,
                "{name}"
            );
        }
    }
}
