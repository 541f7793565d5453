//! From texts to texts: streams, stop texts, several answers, prompts handed over in parts.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use candle_core::Device;
use chatlm_checkpoint::{SaveOptions, save_model};
use chatlm_job::{Cancel, Job};
use chatlm_run::{
    Answer, AnswerSettings, FinishReason, Generator, GeneratorOptions, GivenSettings, Piece,
};
use chatlm_t5::{Config, Parameters};
use chatlm_tokenizer::{Preset, TrainOptions, train};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A model of random weights over a byte tokenizer: its answers are full of broken characters.
struct Folder(TempDir);

impl Folder {
    fn new(generation: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let options = TrainOptions {
            preset: Preset::ByteBpe,
            vocab_size: 300,
            min_frequency: 1,
            max_memory: None,
            files: None,
        };
        let texts = [
            "你好世界，今天天气很好",
            "鱼和鸟都喜欢水边的院子",
            "hello world",
        ];
        let texts = texts.into_iter().map(|text| Ok(text.to_owned()));
        let report = train(texts, &options, &path, false, &Job::quiet()).unwrap();
        let config = Config {
            vocab_size: report.vocab_size as usize,
            d_model: 32,
            d_kv: 8,
            d_ff: 48,
            num_layers: 1,
            num_heads: 4,
            ..Config::default()
        };
        let parameters = Parameters::random(&config, 5, &Device::Cpu).unwrap();
        save_model(&path, &config, &parameters, SaveOptions::default()).unwrap();
        fs::write(path.join("generation_config.json"), generation.to_string()).unwrap();
        Self(folder)
    }

    fn generator(&self) -> Generator {
        let options = json!({"model": self.0.path().join("model"), "dtype": "f32"});
        let options: GeneratorOptions = serde_json::from_value(options).unwrap();
        Generator::load(&options, &Job::quiet()).unwrap()
    }
}

fn settings(generator: &Generator, fields: &Value) -> AnswerSettings {
    let given: GivenSettings = serde_json::from_value(fields.clone()).unwrap();
    generator.settings(&given).unwrap()
}

fn prompts(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("你好{n}world")).collect()
}

/// One of each search. Random weights would say one token for ever: nothing comes twice.
fn searches() -> Vec<Value> {
    vec![
        json!({"maxNewTokens": 60, "noRepeatNgram": 1}),
        json!({"maxNewTokens": 60, "noRepeatNgram": 1, "search": "beam", "beams": 3}),
        json!({"maxNewTokens": 60, "search": "sample", "temperature": 3.0}),
        json!({"maxNewTokens": 60, "noRepeatNgram": 1, "search": "beam-sample", "beams": 3}),
        json!({"maxNewTokens": 60, "noRepeatNgram": 1, "search": "contrastive", "topK": 4}),
    ]
}

fn answer(generator: &Generator, prompt: &str, settings: &AnswerSettings) -> Answer {
    let prompts = [prompt.to_owned()];
    let answers = generator.answer(&prompts, settings, 1, &Job::quiet());
    answers.unwrap().remove(0)
}

fn streamed(generator: &Generator, prompt: &str, settings: &AnswerSettings) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut emit = |piece| {
        pieces.push(piece);
        true
    };
    generator
        .stream(prompt, settings, &Cancel::default(), &mut emit)
        .unwrap();
    pieces
}

#[test]
fn a_stream_is_the_answer_and_never_takes_a_word_back() {
    let folder = Folder::new(&json!({}));
    let generator = folder.generator();
    let prompt = prompts(1).remove(0);
    for fields in searches() {
        let free = settings(&generator, &fields);
        let full = answer(&generator, &prompt, &free);
        let places: Vec<usize> = full.response.char_indices().map(|(at, _)| at).collect();
        assert!(places.len() > 12, "{fields} {full:?}");
        let middle = places.len() / 2;
        let stop = full.response[places[middle]..places[middle + 3]].to_owned();
        for stops in [Vec::new(), vec!["不在那里".to_owned(), stop.clone()]] {
            let settings = AnswerSettings {
                stop: stops.clone(),
                ..free.clone()
            };
            let whole = answer(&generator, &prompt, &settings);
            let pieces = streamed(&generator, &prompt, &settings);
            let mut told = String::new();
            for piece in &pieces {
                told += &piece.text;
                assert!(whole.response.starts_with(&told), "{fields} {told:?}");
            }
            assert_eq!(told, whole.response, "{fields}");
            let last = &pieces[pieces.len() - 1];
            assert_eq!(last.finish_reason, Some(whole.finish_reason));
            assert_eq!(last.tokens, whole.tokens.len());
            assert!(!stops.iter().any(|stop| whole.response.contains(stop)));
            let beams = fields["beams"].is_u64();
            if !stops.is_empty() && !beams {
                let end = full.response.find(&stop).unwrap();
                assert_eq!(whole.response, full.response[..end], "{fields}");
                assert_eq!(whole.finish_reason, FinishReason::Stop);
                assert!(whole.tokens.len() < full.tokens.len());
            }
        }
    }
}

#[test]
fn answers_are_the_same_in_any_parts_and_batches() {
    let folder = Folder::new(&json!({}));
    let generator = folder.generator();
    let (prompts, job) = (prompts(5), Job::quiet());
    for fields in searches() {
        let settings = settings(&generator, &fields);
        let whole = generator.answer(&prompts, &settings, 8, &job).unwrap();
        let mut parts = generator.answer(&prompts[..2], &settings, 1, &job).unwrap();
        let rest = generator.answer_from(2, &prompts[2..], &settings, 2, &job);
        parts.extend(rest.unwrap());
        // The plain decoder pads prompts to one length, which moves a score's last digits.
        let rounded = |answers: Vec<Answer>| -> Vec<Answer> {
            let round = |score: f64| (score * 1e4).round();
            answers
                .into_iter()
                .map(|answer| Answer {
                    score: answer.score.map(round),
                    ..answer
                })
                .collect()
        };
        assert_eq!(rounded(whole), rounded(parts), "{fields}");
    }
}

#[test]
fn several_answers_follow_each_other_best_first() {
    let folder = Folder::new(&json!({
        "num_beams": 4, "no_repeat_ngram_size": 1, "max_new_tokens": 9,
    }));
    let generator = folder.generator();
    let (prompts, job) = (prompts(3), Job::quiet());
    let settings = settings(&generator, &json!({"answers": 3}));
    let answers = generator.answer(&prompts, &settings, 2, &job).unwrap();
    assert_eq!(answers.len(), 9);
    for (prompt, answers) in prompts.iter().zip(answers.chunks(3)) {
        assert!(answers.iter().all(|answer| answer.prompt == *prompt));
        assert!(answers.is_sorted_by(|a, b| a.score > b.score));
        assert!(answers.iter().all(|answer| answer.tokens.len() <= 9));
    }
}
