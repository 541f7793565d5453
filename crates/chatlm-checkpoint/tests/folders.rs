//! Model folders of transformers and adapter folders of PEFT, read and written, against the numbers
//! of `test/golden/lora/make.py`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use chatlm_checkpoint::{
    SaveOptions, load_adapter, load_model, merge, read_safetensors, save_adapter, save_model,
    to_safetensors,
};
use chatlm_job::{Code, Error};
use chatlm_t5::{
    Config, LoraBias, LoraConfig, Model, Parameters, Pass, Precision, Sequences, Tape,
};
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../test/golden/lora")
        .join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(golden("expected.json")).unwrap()).unwrap()
}

/// Logits of the golden inputs, flat.
fn logits(model: &Model) -> Vec<f32> {
    let expected = expected();
    let source: Vec<Vec<u32>> = serde_json::from_value(expected["source"].clone()).unwrap();
    let target: Vec<Vec<u32>> = serde_json::from_value(expected["target"].clone()).unwrap();
    let source = Sequences::new(&source, &Device::Cpu).unwrap();
    let target = Sequences::new(&target, &Device::Cpu).unwrap();
    let (tape, pass) = (Tape::off(Precision::F32), Pass::inference());
    let encoded = model.encode(&tape, &source, &pass).unwrap();
    let hidden = model
        .decode(&tape, &target, &encoded, &source.rows, &pass)
        .unwrap();
    model
        .logits(hidden.tensor())
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn assert_close(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    let worst = got
        .iter()
        .zip(want)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < tolerance, "{worst}");
}

fn numbers(name: &str) -> Vec<f32> {
    serde_json::from_value(expected()[name].clone()).unwrap()
}

fn plain(config: &Config, parameters: &Parameters) -> Vec<f32> {
    logits(&Model::new(config, parameters, None).unwrap())
}

fn failure<T>(result: Result<T, Error>) -> Error {
    result.err().unwrap()
}

#[test]
fn a_folder_of_transformers_gives_its_logits_and_survives_a_round_trip() {
    let folder = load_model(&golden("base"), &Device::Cpu).unwrap();
    assert_eq!(folder.generation["eos_token_id"], 1);
    let got = plain(&folder.config, &folder.parameters);
    assert_close(&got, &numbers("base"), 1e-5);

    let out = tempfile::tempdir().unwrap();
    save_model(
        out.path(),
        &folder.config,
        &folder.parameters,
        SaveOptions::default(),
    )
    .unwrap();
    let again = load_model(out.path(), &Device::Cpu).unwrap();
    assert_eq!(again.config, folder.config);
    assert_eq!(plain(&again.config, &again.parameters), got);
    // The same names and values as transformers wrote, so the same file but for its header.
    let read = |dir: &Path| {
        let path = dir.join("model.safetensors");
        to_safetensors(&read_safetensors(&path, Code::ModelInvalid, &Device::Cpu).unwrap()).unwrap()
    };
    assert_eq!(read(out.path()), read(&golden("base")));
    let config: Value =
        serde_json::from_slice(&fs::read(out.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(
        config["architectures"],
        json!(["T5ForConditionalGeneration"])
    );
    assert_eq!(config["model_type"], "t5");
}

#[test]
fn an_untied_gated_model_survives_a_round_trip() {
    let config = Config {
        vocab_size: 32,
        d_model: 16,
        d_kv: 4,
        d_ff: 24,
        num_layers: 1,
        num_heads: 2,
        feed_forward_proj: "gated-gelu".to_owned(),
        tie_word_embeddings: false,
        ..Config::default()
    };
    let parameters = Parameters::random(&config, 1, &Device::Cpu).unwrap();
    let out = tempfile::tempdir().unwrap();
    save_model(out.path(), &config, &parameters, SaveOptions::default()).unwrap();
    let again = load_model(out.path(), &Device::Cpu).unwrap();
    assert_eq!(
        plain(&config, &parameters),
        plain(&again.config, &again.parameters)
    );

    // As transformers 5 writes the same model: called tied, but not scaled and with a head.
    let path = out.path().join("config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    value["tie_word_embeddings"] = json!(true);
    value["scale_decoder_outputs"] = json!(false);
    fs::write(&path, value.to_string()).unwrap();
    let again = load_model(out.path(), &Device::Cpu).unwrap();
    assert_eq!(
        plain(&config, &parameters),
        plain(&again.config, &again.parameters)
    );
}

#[test]
fn half_precision_copies_of_tied_weights_and_shards_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = golden("base/model.safetensors");
    let tensors = read_safetensors(&path, Code::ModelInvalid, &Device::Cpu).unwrap();
    let mut shards = [HashMap::new(), HashMap::new()];
    let mut map = serde_json::Map::new();
    let mut rounded = BTreeMap::new();
    let copies = [
        "lm_head.weight",
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
    ];
    let mut all: Vec<(String, Tensor)> = tensors.into_iter().collect();
    let shared = all
        .iter()
        .find(|(name, _)| name == "shared.weight")
        .unwrap()
        .1
        .clone();
    all.extend(copies.map(|name| (name.to_owned(), shared.clone())));
    for (place, (name, tensor)) in all.into_iter().enumerate() {
        let half = if place % 2 == 0 {
            DType::BF16
        } else {
            DType::F16
        };
        map.insert(
            name.clone(),
            json!(format!("model-{}.safetensors", place % 2)),
        );
        let tensor = tensor.to_dtype(half).unwrap();
        rounded.insert(name.clone(), tensor.clone());
        shards[place % 2].insert(name, tensor);
    }
    for (place, shard) in shards.into_iter().enumerate() {
        let path = dir.path().join(format!("model-{place}.safetensors"));
        candle_core::safetensors::save(&shard, path).unwrap();
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    fs::write(
        dir.path().join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    // A published ChatLM folder names its own class; the weights are a plain T5's.
    let text = fs::read_to_string(golden("base/config.json")).unwrap();
    let text = text.replace("T5ForConditionalGeneration", "TextToTextModel");
    fs::write(dir.path().join("config.json"), text).unwrap();
    let folder = load_model(dir.path(), &Device::Cpu).unwrap();
    assert_eq!(folder.generation, json!({}));
    let got = plain(&folder.config, &folder.parameters);
    assert_close(&got, &numbers("base"), 0.5);
    let exact = Parameters::from_tensors(&folder.config, rounded, &Device::Cpu).unwrap();
    assert_eq!(got, plain(&folder.config, &exact));

    fs::remove_file(dir.path().join("model-1.safetensors")).unwrap();
    let error = failure(load_model(dir.path(), &Device::Cpu));
    assert_eq!(error.code(), Code::ModelInvalid);
    assert!(error.message().contains("model-1.safetensors"), "{error}");
}

/// Files of weights in a folder, in order.
fn weight_files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    names.sort();
    names
}

#[test]
fn every_precision_in_one_file_or_in_shards_is_written_and_read_back() {
    let base = load_model(&golden("base"), &Device::Cpu).unwrap();
    let count = base.parameters.iter().count();
    for (name, dtype, torch) in [
        ("f32", DType::F32, "float32"),
        ("f16", DType::F16, "float16"),
        ("bf16", DType::BF16, "bfloat16"),
    ] {
        let mut rounded = base.parameters.clone();
        for (name, var) in base.parameters.iter() {
            let tensor = var.as_detached_tensor().to_dtype(dtype).unwrap();
            let tensor = tensor.to_dtype(DType::F32).unwrap();
            rounded.insert(name, Var::from_tensor(&tensor).unwrap());
        }
        let values = |parameters: &Parameters| -> Vec<(String, Vec<f32>)> {
            let read = |var: &Var| var.flatten_all().unwrap().to_vec1().unwrap();
            let each = parameters.iter();
            each.map(|(name, var)| (name.to_owned(), read(var)))
                .collect()
        };
        let whole = SaveOptions::with_dtype(name).unwrap();
        // A limit that one weight alone passes gives every weight a file of its own.
        for (limit, files) in [
            (whole.max_shard_bytes, 1..=1),
            (4000, 3..=20),
            (1, count..=count),
        ] {
            let options = SaveOptions {
                max_shard_bytes: limit,
                ..whole
            };
            let out = tempfile::tempdir().unwrap();
            save_model(out.path(), &base.config, &base.parameters, options).unwrap();
            let written = weight_files(out.path());
            assert!(files.contains(&written.len()), "{name} {written:?}");
            let config = fs::read_to_string(out.path().join("config.json")).unwrap();
            assert_eq!(
                serde_json::from_str::<Value>(&config).unwrap()["torch_dtype"],
                torch
            );
            let mut total = 0;
            for file in &written {
                let path = out.path().join(file);
                let tensors = read_safetensors(&path, Code::ModelInvalid, &Device::Cpu).unwrap();
                let size: usize = tensors
                    .values()
                    .map(|tensor| tensor.elem_count() * dtype.size_in_bytes())
                    .sum();
                assert!(tensors.values().all(|tensor| tensor.dtype() == dtype));
                assert!(tensors.len() == 1 || size as u64 <= limit, "{file}: {size}");
                total += size;
            }
            let index = out.path().join("model.safetensors.index.json");
            assert_eq!(index.exists(), written.len() > 1);
            if index.exists() {
                let index: Value = serde_json::from_slice(&fs::read(index).unwrap()).unwrap();
                assert_eq!(index["metadata"]["total_size"], total);
                let map = index["weight_map"].as_object().unwrap();
                assert_eq!(map.len(), count);
                // transformers' names.
                assert_eq!(
                    written[0],
                    format!("model-00001-of-{:05}.safetensors", written.len())
                );
            }
            let again = load_model(out.path(), &Device::Cpu).unwrap();
            assert_eq!(values(&again.parameters), values(&rounded));
        }
    }
    let error = failure(SaveOptions::with_dtype("int8"));
    assert_eq!(error.code(), Code::Usage);
}

#[test]
fn a_value_that_f16_cannot_hold_is_not_written_as_infinity() {
    let base = load_model(&golden("base"), &Device::Cpu).unwrap();
    let name = "decoder.final_layer_norm.weight";
    let var = base.parameters.get(name).unwrap();
    var.set(&Tensor::full(1e6f32, var.dims(), &Device::Cpu).unwrap())
        .unwrap();
    let save = |dtype: &str| {
        let out = tempfile::tempdir().unwrap();
        let options = SaveOptions::with_dtype(dtype).unwrap();
        save_model(out.path(), &base.config, &base.parameters, options)
    };
    let error = failure(save("f16"));
    assert_eq!(error.code(), Code::NotFinite);
    assert!(error.message().contains(name), "{error}");
    save("bf16").unwrap();
}

#[test]
fn pickled_weights_are_refused_with_the_way_out() {
    for file in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(golden("base/config.json"), dir.path().join("config.json")).unwrap();
        fs::write(dir.path().join(file), "pickle").unwrap();
        let error = failure(load_model(dir.path(), &Device::Cpu));
        assert_eq!(error.code(), Code::ModelInvalid);
        assert!(error.message().contains("pickle"), "{error}");
        for part in ["safetensors", "from_pretrained", "save_pretrained"] {
            assert!(error.help().contains(part), "{}", error.help());
        }
        // Beside weights that can be read it is in nobody's way.
        let path = dir.path().join("model.safetensors");
        fs::copy(golden("base/model.safetensors"), path).unwrap();
        assert!(load_model(dir.path(), &Device::Cpu).is_ok());
    }
    let base = load_model(&golden("base"), &Device::Cpu).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = golden("adapter/adapter_config.json");
    fs::copy(config, dir.path().join("adapter_config.json")).unwrap();
    fs::write(dir.path().join("adapter_model.bin"), "pickle").unwrap();
    let mut parameters = base.parameters;
    let error = failure(load_adapter(dir.path(), &base.config, &mut parameters));
    assert!(error.message().contains("pickle"), "{error}");
    assert!(
        error.help().contains("safe_serialization"),
        "{}",
        error.help()
    );
}

#[test]
fn an_index_that_leads_elsewhere_or_nowhere_is_refused() {
    for (text, part) in [
        ("{", "index.json"),
        ("{}", "weight_map"),
        (
            r#"{"weight_map": {"shared.weight": "../model.safetensors"}}"#,
            "../model.safetensors",
        ),
        (r#"{"weight_map": {"shared.weight": 3}}"#, "3"),
        (
            r#"{"weight_map": {"shared.weight": "gone.safetensors"}}"#,
            "gone.safetensors",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(golden("base/config.json"), dir.path().join("config.json")).unwrap();
        fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
        let error = failure(load_model(dir.path(), &Device::Cpu));
        assert_eq!(error.code(), Code::ModelInvalid, "{error}");
        assert!(error.message().contains(part), "{error}");
    }
}

/// A copy of the golden base folder to spoil.
fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden("base").join(name), dir.path().join(name)).unwrap();
    }
    dir
}

#[test]
fn what_is_no_whole_t5_is_refused_by_what_is_wrong() {
    type Spoil = fn(&Path);
    let cases: [(Spoil, Code, &str); 7] = [
        (
            |dir| fs::remove_file(dir.join("config.json")).unwrap(),
            Code::ModelInvalid,
            "config.json",
        ),
        (
            |dir| fs::write(dir.join("config.json"), "{\"model_type\": \"bert\"}").unwrap(),
            Code::ModelInvalid,
            "bert",
        ),
        (
            |dir| fs::write(dir.join("config.json"), "{").unwrap(),
            Code::ModelInvalid,
            "config.json",
        ),
        (
            |dir| fs::remove_file(dir.join("model.safetensors")).unwrap(),
            Code::ModelInvalid,
            "model.safetensors",
        ),
        (
            |dir| {
                fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).unwrap();
            },
            Code::ModelInvalid,
            "pickle",
        ),
        (
            |dir| {
                let bytes = fs::read(dir.join("model.safetensors")).unwrap();
                fs::write(dir.join("model.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
            },
            Code::ModelInvalid,
            "model.safetensors",
        ),
        (
            |dir| {
                let path = dir.join("model.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                let end = bytes.len();
                bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
                fs::write(&path, bytes).unwrap();
            },
            Code::NotFinite,
            "weight",
        ),
    ];
    for (spoil, code, part) in cases {
        let dir = copy();
        spoil(dir.path());
        let error = failure(load_model(dir.path(), &Device::Cpu));
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(part), "{error}");
    }
    let error = failure(load_model(Path::new("/nowhere/at/all"), &Device::Cpu));
    assert_eq!(error.code(), Code::InputNotFound);
}

#[test]
fn adapters_of_peft_give_its_logits_before_and_after_merging() {
    for (name, count) in [("adapter", 12), ("pattern", 4)] {
        let mut folder = load_model(&golden("base"), &Device::Cpu).unwrap();
        let lora = load_adapter(&golden(name), &folder.config, &mut folder.parameters).unwrap();
        let adapted = Model::new(&folder.config, &folder.parameters, Some(&lora)).unwrap();
        let got = logits(&adapted);
        assert_close(&got, &numbers(name), 1e-5);
        drop(adapted);
        assert_eq!(merge(&mut folder.parameters, &lora).unwrap(), count);
        let merged = plain(&folder.config, &folder.parameters);
        assert_close(&merged, &got, 1e-5);
        assert_close(&merged, &numbers(name), 1e-5);
        assert!(
            folder
                .parameters
                .iter()
                .all(|(name, _)| !name.contains("lora_"))
        );
    }
}

#[test]
fn an_adapter_survives_a_round_trip_and_keeps_pefts_names() {
    let mut folder = load_model(&golden("base"), &Device::Cpu).unwrap();
    let lora = load_adapter(&golden("adapter"), &folder.config, &mut folder.parameters).unwrap();
    assert_eq!(
        (lora.targets.clone(), lora.bias),
        (vec!["q".into(), "v".into()].into(), LoraBias::None)
    );
    let out = tempfile::tempdir().unwrap();
    save_adapter(out.path(), &lora, &folder.parameters, "base").unwrap();
    let read = |dir: &Path| {
        let path = dir.join("adapter_model.safetensors");
        to_safetensors(&read_safetensors(&path, Code::ModelInvalid, &Device::Cpu).unwrap()).unwrap()
    };
    assert_eq!(read(out.path()), read(&golden("adapter")));
    let config = |dir: &Path| -> Value {
        serde_json::from_slice(&fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
    };
    let (ours, theirs) = (config(out.path()), config(&golden("adapter")));
    for (key, value) in ours.as_object().unwrap() {
        assert_eq!(value, &theirs[key], "{key}");
    }
}

#[test]
fn trained_relative_biases_travel_with_the_adapter() {
    let name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    let folder = load_model(&golden("base"), &Device::Cpu).unwrap();
    let (config, mut parameters) = (folder.config, folder.parameters);
    let lora = LoraConfig {
        r: 2,
        alpha: 4.0,
        dropout: 0.0,
        targets: vec!["wo".into()].into(),
        bias: LoraBias::All,
        ..LoraConfig::default()
    };
    lora.attach(&config, &mut parameters, 1).unwrap();
    let moved = (parameters.get(name).unwrap().as_detached_tensor() + 1.0).unwrap();
    parameters.get(name).unwrap().set(&moved).unwrap();
    let out = tempfile::tempdir().unwrap();
    save_adapter(out.path(), &lora, &parameters, "base").unwrap();
    let mut fresh = load_model(&golden("base"), &Device::Cpu)
        .unwrap()
        .parameters;
    assert_eq!(load_adapter(out.path(), &config, &mut fresh).unwrap(), lora);
    let values = |p: &Parameters| p.get(name).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(values(&fresh), values(&parameters));
}

#[test]
fn an_adapter_for_another_model_or_kind_is_refused() {
    let base = load_model(&golden("base"), &Device::Cpu).unwrap();
    let other = Config {
        d_model: 8,
        ..base.config.clone()
    };
    let mut parameters = Parameters::random(&other, 1, &Device::Cpu).unwrap();
    let error = failure(load_adapter(&golden("adapter"), &other, &mut parameters));
    assert_eq!(error.code(), Code::ModelInvalid);
    assert!(
        error.help().contains("another base model"),
        "{}",
        error.help()
    );

    let dir = tempfile::tempdir().unwrap();
    for (key, value) in [
        ("lora_bias", json!(true)),
        ("alora_invocation_tokens", json!([5, 6])),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("peft_type", json!("IA3")),
    ] {
        let text = fs::read(golden("adapter/adapter_config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        config[key] = value;
        fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
        let mut parameters = load_model(&golden("base"), &Device::Cpu)
            .unwrap()
            .parameters;
        let error = failure(load_adapter(dir.path(), &base.config, &mut parameters));
        assert_eq!(error.code(), Code::ModelInvalid);
        assert!(error.message().contains(key), "{error}");
    }
}
