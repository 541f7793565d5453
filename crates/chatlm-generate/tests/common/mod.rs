//! Models of the golden folders, and every decoder that searches are to run over.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    reason = "each test file uses its part"
)]

mod fake;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use chatlm_generate::{Answer, Decoder, End, Observer, Plain, Request, Search, Settings, generate};
use chatlm_job::{Cancel, mix};
use chatlm_t5::{Config, Model, Parameters};
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use fake::{Fake, Heard};

/// Makes a decoder of a model.
pub type Make = for<'a> fn(&'a Model) -> Box<dyn Decoder + 'a>;

/// The decoders; each must pass every test of this folder.
pub const DECODERS: [(&str, Make); 1] = [("plain", |model| Box::new(Plain::new(model, true)))];

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../test/golden")
        .join(name)
}

pub fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap()
}

/// The weights of a model folder.
pub fn weights(folder: &str) -> (Config, Parameters) {
    let config = json(&format!("{folder}/config.json"));
    let path = golden(folder).join("model.safetensors");
    let tensors = candle_core::safetensors::load(path, &Device::Cpu)
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_dtype(DType::F32).unwrap()))
        .collect();
    let parameters = Parameters::from_tensors(&config, tensors, &Device::Cpu).unwrap();
    (config, parameters)
}

/// The model that the golden answers come from.
pub fn tiny() -> Model {
    let (config, parameters) = weights("generate/tiny");
    Model::new(&config, &parameters, None).unwrap()
}

/// Held-out prompts of the tiny model.
pub fn requests(count: usize) -> Vec<Request> {
    let prompts: Vec<Vec<u32>> = json("generate/prompts.json");
    (0..)
        .zip(prompts)
        .take(count)
        .map(|(row, ids)| Request {
            ids,
            key: mix(5, row),
        })
        .collect()
}

pub fn run_with(
    decoder: &mut dyn Decoder,
    requests: &[Request],
    settings: &Settings,
    observer: &mut dyn Observer,
) -> Vec<Vec<Answer>> {
    generate(decoder, requests, settings, &Cancel::default(), observer).unwrap()
}

pub fn run(
    decoder: &mut dyn Decoder,
    requests: &[Request],
    settings: &Settings,
) -> Vec<Vec<Answer>> {
    run_with(decoder, requests, settings, &mut ())
}

/// The tokens of each request's first answer.
pub fn tokens(answers: &[Vec<Answer>]) -> Vec<Vec<u32>> {
    answers.iter().map(|all| all[0].tokens.clone()).collect()
}

/// One of each kind of search, with some filters on, up to 24 tokens.
pub fn searches() -> Vec<Settings> {
    let base = Settings {
        max_new_tokens: 24,
        temperature: 1.3,
        penalty_alpha: 0.6,
        beams: 4,
        ..Settings::default()
    };
    let with = |search, no_repeat_ngram, top_k, answers| Settings {
        search,
        no_repeat_ngram,
        top_k,
        answers,
        ..base.clone()
    };
    vec![
        with(Search::Greedy, 0, 0, 1),
        with(Search::Greedy, 2, 0, 1),
        with(Search::Sample, 3, 0, 1),
        with(Search::Sample, 0, 7, 3),
        with(Search::Beam, 0, 0, 1),
        with(Search::Beam, 3, 0, 4),
        with(Search::BeamSample, 2, 20, 2),
        with(Search::Contrastive, 2, 4, 1),
    ]
}

/// One set of golden answers; `make.py` says what its fields are.
#[derive(Deserialize)]
pub struct Set {
    pub settings: Settings,
    pub rows: usize,
    pub answers: Vec<Vec<Vec<u32>>>,
    pub sure: Vec<usize>,
    pub scores: Option<Vec<Vec<f32>>>,
}

impl Set {
    /// Answers the requests and compares as far as it is sure; how many answers were compared whole.
    pub fn compare(&self, name: &str, decoder: &mut dyn Decoder, requests: &[Request]) -> usize {
        let mut whole = 0;
        for (row, answers) in run(decoder, requests, &self.settings).iter().enumerate() {
            let (want, sure) = (&self.answers[row], self.sure[row]);
            let at = format!("{name}, row {row}, {:?}", self.settings);
            if self.settings.search.has_beams() && sure == 0 {
                continue;
            }
            assert_eq!(answers.len(), want.len(), "{at}");
            for (place, (got, want)) in answers.iter().zip(want).enumerate() {
                let end = sure.min(want.len());
                assert_eq!(got.tokens[..end], want[..end], "{at}");
                if end < want.len() {
                    continue;
                }
                assert_eq!(got.tokens, *want, "{at}");
                let last = got.tokens[got.tokens.len() - 1];
                let stopped = last == 1 || self.settings.end_tokens.contains(&last);
                assert_eq!(got.end == End::Stop, stopped, "{at}");
                if let Some(scores) = &self.scores {
                    let (got, want) = (got.score.unwrap(), scores[row][place]);
                    let close = (got - want).abs() < 1e-5 * want.abs().max(1.0);
                    assert!(close, "{got} {want} {at}");
                }
                whole += 1;
            }
        }
        whole
    }
}
