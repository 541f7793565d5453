//! The 0.2 B model of random weights against transformers' answers (`test/golden/generate/large.py`):
//! what a tiny model is too small to show, such as sums over thousands of values.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use candle_core::Device;
use chatlm_generate::Request;
use chatlm_t5::{Config, Model, Parameters};
use common::{DECODERS, Set, json};
use serde::Deserialize;

#[derive(Deserialize)]
struct Large {
    seed: u64,
    prompts: Vec<Vec<u32>>,
    sets: Vec<Set>,
}

#[test]
fn the_large_model_answers_as_in_transformers() {
    let large: Large = json("generate/large.json");
    let config = Config::chatlm(29_298);
    let parameters = Parameters::random(&config, large.seed, &Device::Cpu).unwrap();
    let model = Model::new(&config, &parameters, None).unwrap();
    let requests: Vec<Request> = (0..)
        .zip(large.prompts)
        .map(|(key, ids)| Request { ids, key })
        .collect();
    for (name, make) in DECODERS {
        let mut decoder = make(&model);
        let counts = large.sets.iter().map(|set| {
            let rows = &requests[..set.rows];
            set.compare(name, decoder.as_mut(), rows)
        });
        assert!(counts.sum::<usize>() > 20);
    }
}
