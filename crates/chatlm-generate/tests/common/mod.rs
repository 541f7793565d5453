//! Models of the golden folders, and every decoder that searches are to run over.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use chatlm_generate::{Answer, Decoder, Observer, Plain, Request, Search, Settings, generate};
use chatlm_job::{Cancel, mix};
use chatlm_t5::{Config, LoraConfig, Model, Parameters, Session, StoredKind, Weights};
use serde::de::DeserializeOwned;

/// A model as both engines have it.
pub struct Both {
    model: Model,
    weights: Arc<Weights>,
}

impl Both {
    pub fn new(config: &Config, parameters: &Parameters, lora: Option<&LoraConfig>) -> Self {
        let weights = Weights::of_parameters(config, parameters, lora, StoredKind::F32).unwrap();
        Self {
            model: Model::new(config, parameters, lora).unwrap(),
            weights: Arc::new(weights),
        }
    }

    pub fn config(&self) -> &Config {
        self.model.config()
    }
}

/// Makes a decoder of a model.
pub type Make = for<'a> fn(&'a Both) -> Box<dyn Decoder + 'a>;

/// The decoders; each must pass every test of this folder.
pub const DECODERS: [(&str, Make); 2] = [
    ("plain", |both| Box::new(Plain::new(&both.model, true))),
    ("session", |both| {
        Box::new(Session::new(both.weights.clone()))
    }),
];

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
pub fn tiny() -> Both {
    let (config, parameters) = weights("generate/tiny");
    Both::new(&config, &parameters, None)
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

/// A decoder whose scores are a pure function of the prompt and what a row has read: quick, of any
/// size, and its rows come and go at any time.
pub struct Fake {
    config: Config,
    rows: Vec<(u64, Vec<u32>)>,
    /// How unlike the scores are.
    pub spread: f32,
}

impl Fake {
    pub fn new(vocabulary: usize) -> Self {
        Self {
            config: Config {
                vocab_size: vocabulary,
                ..Config::default()
            },
            rows: Vec::new(),
            spread: 3.0,
        }
    }

    fn random(row: &(u64, Vec<u32>)) -> chatlm_job::Random {
        let key = row.1.iter().fold(row.0, |key, &id| mix(key, u64::from(id)));
        chatlm_job::Random::new(key)
    }
}

impl Decoder for Fake {
    fn config(&self) -> &Config {
        &self.config
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn add(&mut self, prompts: &[&[u32]]) -> chatlm_job::Result<()> {
        for prompt in prompts {
            let key = prompt.iter().fold(9, |key, &id| mix(key, u64::from(id)));
            self.rows.push((key, Vec::new()));
        }
        Ok(())
    }

    fn select(&mut self, rows: &[usize]) -> chatlm_job::Result<()> {
        self.rows = rows.iter().map(|&row| self.rows[row].clone()).collect();
        Ok(())
    }

    fn step(&mut self, tokens: &[u32], logits: &mut Vec<f32>) -> chatlm_job::Result<()> {
        assert_eq!(tokens.len(), self.rows.len());
        logits.clear();
        for (row, &token) in self.rows.iter_mut().zip(tokens) {
            row.1.push(token);
            let mut random = Self::random(row);
            logits
                .extend((0..self.config.vocab_size).map(|_| random.normal() as f32 * self.spread));
        }
        Ok(())
    }

    fn hidden(&self) -> chatlm_job::Result<Vec<f32>> {
        let state = |row| {
            let mut random = Self::random(row);
            (0..4).map(move |_| random.normal() as f32 + 0.5)
        };
        Ok(self.rows.iter().flat_map(state).collect())
    }
}

/// What an observer heard, by request and answer; ends answers at a pair of tokens where it has one.
#[derive(Default)]
pub struct Heard {
    pub written: std::collections::BTreeMap<(usize, usize), Vec<u32>>,
    pub calls: usize,
    pub stop: Option<[u32; 2]>,
}

impl Observer for Heard {
    fn wrote(&mut self, place: usize, answer: usize, tokens: &[u32]) {
        assert!(!tokens.is_empty());
        self.written
            .entry((place, answer))
            .or_default()
            .extend(tokens);
        self.calls += 1;
    }

    fn ends(&mut self, _place: usize, tokens: &[u32]) -> bool {
        self.stop.is_some_and(|stop| tokens.ends_with(&stop))
    }
}
