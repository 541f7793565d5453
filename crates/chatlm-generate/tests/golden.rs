//! Searches against transformers' own answers on the tiny model of `test/golden/generate`.

mod common;

use std::collections::HashSet;

use chatlm_generate::{Search, Settings};
use common::{DECODERS, Set, json, requests, run, tiny, tokens};

/// Runs every set of a file over every decoder; how many answers were compared whole.
fn compare(file: &str) -> usize {
    let model = tiny();
    let sets: Vec<Set> = json(file);
    let mut whole = 0;
    for (name, make) in DECODERS {
        for set in &sets {
            whole += set.compare(name, make(&model).as_mut(), &requests(set.rows));
        }
    }
    let all: usize = sets.iter().flat_map(|set| &set.answers).map(Vec::len).sum();
    let enough = all * DECODERS.len() * 9 / 10;
    assert!(whole >= enough, "{whole} of {all} were sure");
    whole
}

#[test]
fn greedy_search_and_beams_answer_as_transformers_do() {
    assert!(compare("generate/answers.json") > 1300);
}

#[test]
fn contrastive_search_answers_as_transformers_does() {
    assert!(compare("generate/contrastive.json") > 160);
}

/// Answers that are all alike, or short, would prove little.
#[test]
fn the_golden_answers_differ_and_are_long() {
    let sets: Vec<Set> = json("generate/answers.json");
    for set in sets.iter().take(2) {
        let distinct: HashSet<&Vec<u32>> = set.answers.iter().map(|all| &all[0]).collect();
        let length: usize = set.answers.iter().map(|all| all[0].len()).sum();
        assert!(set.rows == 200 && distinct.len() >= 150 && length >= 20 * set.rows);
    }
}

/// Where the temperature is next to nothing, the noise of drawing is nothing beside the scores.
#[test]
fn drawn_beams_without_warmth_are_beams() {
    let model = tiny();
    for (name, make) in DECODERS {
        let cold = Settings {
            search: Search::BeamSample,
            max_new_tokens: 30,
            temperature: 1e-5,
            beams: 3,
            ..Settings::default()
        };
        let beam = Settings {
            search: Search::Beam,
            ..cold.clone()
        };
        let drawn = tokens(&run(make(&model).as_mut(), &requests(30), &cold));
        let found = tokens(&run(make(&model).as_mut(), &requests(30), &beam));
        let same = drawn.iter().zip(&found).filter(|(a, b)| a == b).count();
        assert!(same >= 28, "{name}: {same} of 30");
    }
}
