//! Folders for answering: what is mapped, what is converted, what is refused.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use chatlm_checkpoint::{
    SaveOptions, find_not_finite, load_model, load_weights, save_int8, save_model,
    write_safetensors,
};
use chatlm_job::Code;
use chatlm_t5::{Config, Parameters, Session, StoredKind, Weights};

fn config() -> Config {
    Config {
        vocab_size: 70,
        d_model: 32,
        d_kv: 8,
        d_ff: 64,
        num_heads: 4,
        num_layers: 2,
        ..Config::default()
    }
}

fn folder(dir: &Path, options: SaveOptions) -> Parameters {
    let parameters = Parameters::random(&config(), 5, &Device::Cpu).unwrap();
    save_model(dir, &config(), &parameters, options).unwrap();
    parameters
}

/// Scores over a few forced tokens.
fn scores(weights: Arc<Weights>) -> Vec<f32> {
    let mut session = Session::new(weights);
    session.add(&[&[7, 8, 9, 1], &[3, 1]]).unwrap();
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for token in [0, 5, 6, 7] {
        session.step(&[token, token], &mut logits).unwrap();
        all.extend(&logits);
    }
    all
}

fn of(dir: &Path, kind: Option<StoredKind>) -> Vec<f32> {
    scores(load_weights(dir, kind).unwrap().weights)
}

#[test]
fn a_mapped_folder_answers_as_the_weights_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let shards = SaveOptions {
        max_shard_bytes: 20_000,
        ..SaveOptions::default()
    };
    for options in [SaveOptions::default(), shards] {
        let dir = dir.path().join(options.max_shard_bytes.to_string());
        fs::create_dir(&dir).unwrap();
        let parameters = folder(&dir, options);
        let memory = Weights::of_parameters(&config(), &parameters, None, StoredKind::F32).unwrap();
        let found = load_weights(&dir, None).unwrap();
        assert_eq!(found.kind, StoredKind::F32);
        assert!(scores(found.weights) == scores(Arc::new(memory)));
    }
}

#[test]
fn the_folder_says_which_precision_and_the_caller_may_ask_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let (wide, narrow) = (dir.path().join("f32"), dir.path().join("bf16"));
    for (path, dtype) in [(&wide, DType::F32), (&narrow, DType::BF16)] {
        fs::create_dir(path).unwrap();
        let options = SaveOptions {
            dtype,
            ..SaveOptions::default()
        };
        folder(path, options);
    }
    assert_eq!(load_weights(&narrow, None).unwrap().kind, StoredKind::Bf16);
    // Rounded on the way in, or on the way out, but for the few biases: they stay f32 there.
    let (stored, converted) = (of(&narrow, None), of(&wide, Some(StoredKind::Bf16)));
    let largest = |a: &[f32], b: &[f32]| {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(largest(&stored, &converted) < 0.02);
    assert!(largest(&stored, &of(&wide, None)) > 1e-4);
    assert_eq!(
        load_weights(&wide, Some(StoredKind::F16)).unwrap().kind,
        StoredKind::F16
    );
}

#[test]
fn an_int8_folder_answers_as_the_same_weights_converted_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let (wide, int8) = (dir.path().join("f32"), dir.path().join("int8"));
    fs::create_dir(&wide).unwrap();
    fs::create_dir(&int8).unwrap();
    folder(&wide, SaveOptions::default());
    save_int8(&wide, &int8).unwrap();
    let found = load_weights(&int8, None).unwrap();
    assert_eq!(found.kind, StoredKind::Int8);
    assert!(scores(found.weights) == of(&wide, Some(StoredKind::Int8)));
    let size = |path: &Path| fs::metadata(path.join("model.safetensors")).unwrap().len();
    assert!(size(&int8) * 3 < size(&wide));

    for error in [
        load_weights(&int8, Some(StoredKind::F32)).unwrap_err(),
        load_model(&int8, &Device::Cpu).map(|_| ()).unwrap_err(),
        save_int8(&int8, &wide).unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::ModelInvalid);
        assert!(error.message().contains("int8"), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), SaveOptions::default());
    let path = dir.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let refused = |from: &str, to: &str| {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        fs::write(&path, changed).unwrap();
        load_weights(dir.path(), None).unwrap_err()
    };
    let error = refused("\"d_ff\": 64", "\"d_ff\": 65");
    assert!(error.message().contains("DenseReluDense"), "{error}");
    let error = refused("\"num_layers\": 2", "\"num_layers\": 3");
    assert!(error.message().contains("is missing"), "{error}");
    let error = refused("\"num_layers\": 2", "\"num_layers\": 1");
    assert!(
        error.message().contains("is not part of this model"),
        "{error}"
    );
    let error = refused(
        "\"model_type\"",
        "\"quantization_config\": {\"quant_method\": \"awq\"}, \"model_type\"",
    );
    assert!(error.message().contains("awq"), "{error}");
    fs::write(&path, text).unwrap();
    let file = dir.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 9]).unwrap();
    let error = load_weights(dir.path(), None).unwrap_err();
    assert_eq!(error.code(), Code::ModelInvalid);
}

#[test]
fn a_weight_that_is_not_finite_is_found_by_name_and_never_exported() {
    let dir = tempfile::tempdir().unwrap();
    let (wide, int8) = (dir.path().join("f32"), dir.path().join("int8"));
    fs::create_dir(&wide).unwrap();
    fs::create_dir(&int8).unwrap();
    let parameters = folder(&wide, SaveOptions::default());
    find_not_finite(&wide).unwrap();
    let name = "decoder.block.1.layer.2.DenseReluDense.wo.weight";
    let weight = parameters.get(name).unwrap();
    let mut values: Vec<f32> = weight.flatten_all().unwrap().to_vec1().unwrap();
    values[77] = f32::INFINITY;
    let damaged = Tensor::from_vec(values, weight.shape(), &Device::Cpu).unwrap();
    weight.set(&damaged).unwrap();
    let tensors = parameters
        .iter()
        .map(|(name, var)| (name.to_owned(), var.as_tensor().clone()));
    let tensors: BTreeMap<String, Tensor> = tensors.collect();
    write_safetensors(&wide.join("model.safetensors"), &tensors).unwrap();
    for error in [
        find_not_finite(&wide).unwrap_err(),
        save_int8(&wide, &int8).unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::NotFinite);
        assert!(error.message().contains(name), "{error}");
    }
}
