//! Decoding against transformers' `generate` on the tiny model of `test/golden/lora`, and what must
//! hold whatever the weights.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use chatlm_generate::{Request, Search, Settings, generate};
use chatlm_job::{Cancel, Code, mix};
use chatlm_kernels::testing::device;
use chatlm_t5::{Config, Model, Parameters};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../test/golden/lora")
        .join(name)
}

fn weights() -> (Config, Parameters) {
    let config = serde_json::from_slice(&fs::read(golden("base/config.json")).unwrap()).unwrap();
    let tensors =
        candle_core::safetensors::load(golden("base/model.safetensors"), &device()).unwrap();
    let parameters =
        Parameters::from_tensors(&config, tensors.into_iter().collect(), &device()).unwrap();
    (config, parameters)
}

fn model() -> Model {
    let (config, parameters) = weights();
    Model::new(&config, &parameters, None).unwrap()
}

fn run(model: &Model, requests: &[Request], settings: &Settings) -> Vec<Vec<u32>> {
    generate(
        model,
        requests,
        settings,
        true,
        &Cancel::default(),
        &mut |_, _| {},
    )
    .unwrap()
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(golden("expected.json")).unwrap()).unwrap()
}

fn requests() -> Vec<Request> {
    let sources: Vec<Vec<u32>> = serde_json::from_value(expected()["source"].clone()).unwrap();
    (0..)
        .zip(sources)
        .map(|(row, ids)| Request {
            ids,
            key: mix(5, row),
        })
        .collect()
}

fn sampling() -> Settings {
    Settings {
        search: Search::Sample,
        max_new_tokens: 20,
        temperature: 1.3,
        ..Settings::default()
    }
}

#[test]
fn greedy_answers_are_those_of_transformers() {
    for case in expected()["answers"].as_array().unwrap() {
        let settings: Settings = serde_json::from_value(case["settings"].clone()).unwrap();
        let want: Vec<Vec<u32>> = serde_json::from_value(case["tokens"].clone()).unwrap();
        assert_eq!(run(&model(), &requests(), &settings), want);
    }
}

#[test]
fn a_batch_answers_as_its_rows_do_alone() {
    let model = model();
    let greedy = Settings {
        max_new_tokens: 20,
        no_repeat_ngram: 2,
        ..Settings::default()
    };
    for settings in [greedy, sampling()] {
        let together = run(&model, &requests(), &settings);
        for (request, answer) in requests().into_iter().zip(&together) {
            assert_eq!(run(&model, &[request], &settings)[0], *answer);
        }
        let mut turned = requests();
        turned.reverse();
        let mut answers = run(&model, &turned, &settings);
        answers.reverse();
        assert_eq!(answers, together);
    }
}

#[test]
fn sampling_repeats_with_its_key_and_varies_with_it() {
    let model = model();
    let ask = |key: u64| {
        let request = Request {
            ids: vec![5, 9, 1],
            key,
        };
        run(&model, &[request], &sampling()).remove(0)
    };
    assert_eq!(ask(1), ask(1));
    let different: std::collections::HashSet<Vec<u32>> = (0..20).map(ask).collect();
    assert!(different.len() > 10);
}

#[test]
fn answers_end_at_eos_or_at_the_limit_and_hold_no_padding() {
    let model = model();
    let many: Vec<Request> = (0..40)
        .map(|key| Request {
            ids: vec![2 + key as u32 % 20, 1],
            key,
        })
        .collect();
    let mut told: Vec<Vec<u32>> = vec![Vec::new(); many.len()];
    let mut tell = |row: usize, id: u32| told[row].push(id);
    let answers = generate(
        &model,
        &many,
        &sampling(),
        true,
        &Cancel::default(),
        &mut tell,
    )
    .unwrap();
    assert_eq!(answers, told);
    let mut ended = 0;
    for answer in &answers {
        let end = answer.iter().position(|&id| id == 1);
        assert!(
            end.is_none_or(|place| place + 1 == answer.len()),
            "{answer:?}"
        );
        assert!(answer.len() <= 20 && !answer.contains(&0), "{answer:?}");
        ended += usize::from(end.is_some());
    }
    assert!(ended > 5 && ended < 40, "{ended}");
}

#[test]
fn nothing_asked_is_nothing_answered() {
    assert!(run(&model(), &[], &Settings::default()).is_empty());
}

#[test]
fn a_cancelled_answer_stops_within_a_token() {
    let cancel = Cancel::default();
    let mut count = 0;
    let flag = cancel.clone();
    let result = generate(
        &model(),
        &requests(),
        &sampling(),
        true,
        &cancel,
        &mut |_, _| {
            count += 1;
            flag.cancel();
        },
    );
    assert_eq!(result.unwrap_err().code(), Code::Cancelled);
    assert!(count <= 4);
}

#[test]
fn weights_that_are_not_finite_are_told_as_such() {
    let (config, parameters) = weights();
    let norm = parameters.get("decoder.final_layer_norm.weight").unwrap();
    norm.set(&Tensor::full(f32::NAN, norm.dims(), &device()).unwrap())
        .unwrap();
    let model = Model::new(&config, &parameters, None).unwrap();
    for settings in [Settings::default(), sampling()] {
        let result = generate(
            &model,
            &requests(),
            &settings,
            true,
            &Cancel::default(),
            &mut |_, _| {},
        );
        assert_eq!(result.unwrap_err().code(), Code::NotFinite);
    }
}

#[test]
fn an_id_outside_the_vocabulary_is_refused_with_its_row() {
    let bad = [
        Request {
            ids: vec![1],
            key: 0,
        },
        Request {
            ids: vec![99, 1],
            key: 0,
        },
    ];
    let settings = Settings::default();
    let result = generate(
        &model(),
        &bad,
        &settings,
        true,
        &Cancel::default(),
        &mut |_, _| {},
    );
    let error = result.unwrap_err();
    assert_eq!(
        (error.code(), &error.context()["row"]),
        (Code::InputRow, &Value::from(1))
    );
}
