//! The fast engine against the training model's own steps, and what must hold whatever the weights.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use candle_core::Device;
use chatlm_generate::{Decoder, Plain};
use chatlm_t5::{Config, Model, Parameters, Session, Stored, StoredKind, WeightSource, Weights};

fn config(gated: bool) -> Config {
    Config {
        vocab_size: 61,
        d_model: 48,
        d_kv: 8,
        d_ff: 80,
        num_heads: 5,
        num_layers: 2,
        num_decoder_layers: Some(3),
        feed_forward_proj: if gated { "gated-gelu" } else { "relu" }.to_owned(),
        tie_word_embeddings: !gated,
        ..Config::default()
    }
}

fn prompts() -> [Vec<u32>; 3] {
    [
        vec![5, 6, 7, 8, 1],
        vec![9, 1],
        (2..40).chain([1]).collect(),
    ]
}

/// Feeds tokens, changing the rows on the way, and answers all logits and hidden states.
fn walk(decoder: &mut dyn Decoder) -> (Vec<f32>, Vec<f32>) {
    let prompts = prompts();
    let views: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    decoder.add(&views).unwrap();
    let (mut all, mut hidden) = (Vec::new(), Vec::new());
    let mut logits = Vec::new();
    decoder.step(&[0, 0, 0], &mut logits).unwrap();
    all.extend(&logits);
    for step in 0..150u32 {
        match step {
            // Beams: copies, another order, one row gone.
            3 => decoder.select(&[2, 0, 0, 2]).unwrap(),
            5 => decoder.select(&[3, 1, 1]).unwrap(),
            90 => decoder.select(&[1, 2]).unwrap(),
            _ => {}
        }
        let tokens: Vec<u32> = (0..decoder.rows() as u32)
            .map(|row| 2 + (step * 7 + row) % 50)
            .collect();
        decoder.step(&tokens, &mut logits).unwrap();
        assert_eq!(logits.len(), decoder.rows() * 61);
        all.extend(&logits);
        hidden.extend(decoder.hidden().unwrap());
    }
    (all, hidden)
}

fn near(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    let largest = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(largest < tolerance, "{largest}");
}

#[test]
fn the_fast_engine_agrees_with_the_training_model() {
    for gated in [false, true] {
        let config = config(gated);
        let parameters = Parameters::random(&config, 7, &Device::Cpu).unwrap();
        let model = Model::new(&config, &parameters, None).unwrap();
        let (want, want_hidden) = walk(&mut Plain::new(&model, true));
        let weights =
            Arc::new(Weights::of_parameters(&config, &parameters, None, StoredKind::F32).unwrap());
        let (got, got_hidden) = walk(&mut Session::new(weights));
        near(&got, &want, 1e-4);
        near(&got_hidden, &want_hidden, 1e-4);
    }
}

/// Weights of another precision.
struct Rounded<'a>(&'a Parameters, StoredKind);

impl WeightSource for Rounded<'_> {
    fn weight(&mut self, name: &str, shape: (usize, usize)) -> chatlm_job::Result<Stored> {
        let values = self.0.get(name).unwrap().flatten_all().unwrap();
        let values: Vec<f32> = values.to_vec1().unwrap();
        let small = name.contains("layer_norm") || name.contains("relative_attention_bias");
        let kind = if small { StoredKind::F32 } else { self.1 };
        Ok(Stored::rounded(&values, shape, kind))
    }
}

#[test]
fn smaller_precisions_stay_near_and_rows_know_no_neighbours() {
    let config = config(false);
    let parameters = Parameters::random(&config, 7, &Device::Cpu).unwrap();
    let exact =
        Arc::new(Weights::of_parameters(&config, &parameters, None, StoredKind::F32).unwrap());
    let (want, _) = walk(&mut Session::new(exact));
    let size = want.iter().map(|v| v.abs()).fold(0.0, f32::max);
    for (kind, tolerance) in [
        (StoredKind::F16, 0.002),
        (StoredKind::Bf16, 0.03),
        (StoredKind::Int8, 0.06),
    ] {
        let weights = Arc::new(Weights::new(&config, &mut Rounded(&parameters, kind)).unwrap());
        let (got, _) = walk(&mut Session::new(weights.clone()));
        near(&got, &want, tolerance * size);

        // Alone, in a batch, and joining while others are at work: the same bits.
        let prompts = prompts();
        let run = |others: &[usize], late: bool| -> Vec<Vec<f32>> {
            let mut session = Session::new(weights.clone());
            let mut logits = Vec::new();
            let neighbours: Vec<&[u32]> = others.iter().map(|&o| prompts[o].as_slice()).collect();
            if !neighbours.is_empty() {
                session.add(&neighbours).unwrap();
            }
            if late {
                session.step(&vec![0; others.len()], &mut logits).unwrap();
            }
            session.add(&[&prompts[2]]).unwrap();
            let mut token = 0;
            (0..20)
                .map(|step| {
                    let mut tokens = vec![4; others.len()];
                    tokens.push(token);
                    session.step(&tokens, &mut logits).unwrap();
                    token = 2 + step;
                    logits[others.len() * 61..].to_vec()
                })
                .collect()
        };
        let alone = run(&[], false);
        assert_eq!(alone, run(&[0, 1, 1, 0, 2], false), "{kind:?}");
        assert_eq!(alone, run(&[1, 0], true), "{kind:?}");
    }
}

#[test]
fn the_best_token_is_that_of_the_scores() {
    let config = config(false);
    let parameters = Parameters::random(&config, 3, &Device::Cpu).unwrap();
    let weights =
        Arc::new(Weights::of_parameters(&config, &parameters, None, StoredKind::F32).unwrap());
    let (mut scored, mut best) = (Session::new(weights.clone()), Session::new(weights));
    let prompts = prompts();
    let views: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    scored.add(&views).unwrap();
    best.add(&views).unwrap();
    let (mut tokens, mut logits) = (vec![0; 3], Vec::new());
    for _ in 0..30 {
        scored.step(&tokens, &mut logits).unwrap();
        let found = best.step_best(&tokens).unwrap();
        for (row, found) in logits.chunks(61).zip(&found) {
            let found = row[found.unwrap() as usize];
            assert!(row.iter().all(|&v| v <= found));
        }
        tokens = found.into_iter().map(Option::unwrap).collect();
    }
}
