//! What must hold of answers whatever the search, the weights and the decoder.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::HashSet;

use candle_core::Tensor;
use chatlm_generate::{End, Observer, Request, Search, Settings, generate};
use chatlm_job::{Cancel, Code};
use chatlm_kernels::testing::device;
use common::{
    Both, DECODERS, Heard, json, requests, run, run_with, searches, tiny, tokens, weights,
};
use serde_json::Value;

#[test]
fn greedy_answers_of_the_adapted_base_are_those_of_transformers() {
    let (config, parameters) = weights("lora/base");
    let model = Both::new(&config, &parameters, None);
    let expected: Value = json("lora/expected.json");
    let sources: Vec<Vec<u32>> = serde_json::from_value(expected["source"].clone()).unwrap();
    let requests: Vec<Request> = (0..)
        .zip(sources)
        .map(|(key, ids)| Request { ids, key })
        .collect();
    for case in expected["answers"].as_array().unwrap() {
        let settings: Settings = serde_json::from_value(case["settings"].clone()).unwrap();
        let want: Vec<Vec<u32>> = serde_json::from_value(case["tokens"].clone()).unwrap();
        for (_, make) in DECODERS {
            let got = run(make(&model).as_mut(), &requests, &settings);
            assert_eq!(tokens(&got), want);
        }
    }
}

#[test]
fn a_batch_answers_as_its_rows_do_alone() {
    let model = tiny();
    let requests = requests(5);
    for (name, make) in DECODERS {
        let mut decoder = make(&model);
        for settings in searches() {
            let together = run(decoder.as_mut(), &requests, &settings);
            for (request, answers) in requests.iter().zip(&together) {
                let alone = run(decoder.as_mut(), std::slice::from_ref(request), &settings);
                assert_eq!(tokens(&alone)[0], answers[0].tokens, "{name} {settings:?}");
                let count = settings.answers;
                assert!(answers.len() == count && alone[0].len() == count);
            }
            let mut turned = requests.clone();
            turned.reverse();
            let mut answers = run(decoder.as_mut(), &turned, &settings);
            answers.reverse();
            assert_eq!(tokens(&answers), tokens(&together), "{name} {settings:?}");
        }
    }
}

#[test]
fn sampling_repeats_with_its_key_and_varies_with_it() {
    let model = tiny();
    for (_, make) in DECODERS {
        for search in [Search::Sample, Search::BeamSample] {
            let settings = Settings {
                search,
                max_new_tokens: 20,
                beams: 3,
                ..Settings::default()
            };
            let ask = |key: u64| {
                let ids = requests(1).remove(0).ids;
                let answers = run(make(&model).as_mut(), &[Request { ids, key }], &settings);
                tokens(&answers).remove(0)
            };
            assert_eq!(ask(1), ask(1));
            let different: HashSet<Vec<u32>> = (0..20).map(ask).collect();
            assert!(different.len() > 15, "{search:?} {}", different.len());
        }
    }
}

#[test]
fn the_first_drawn_answer_is_the_same_however_many_are_asked_for() {
    let model = tiny();
    for (_, make) in DECODERS {
        let settings = |answers| Settings {
            search: Search::Sample,
            max_new_tokens: 16,
            answers,
            ..Settings::default()
        };
        let one = run(make(&model).as_mut(), &requests(3), &settings(1));
        let four = run(make(&model).as_mut(), &requests(3), &settings(4));
        assert_eq!(tokens(&one), tokens(&four));
        for answers in &four {
            let distinct: HashSet<&Vec<u32>> = answers.iter().map(|a| &a.tokens).collect();
            assert_eq!(distinct.len(), 4);
        }
    }
}

#[test]
fn what_is_told_while_writing_is_the_answer() {
    let model = tiny();
    for (name, make) in DECODERS {
        for settings in searches() {
            let mut heard = Heard::default();
            let answers = run_with(make(&model).as_mut(), &requests(6), &settings, &mut heard);
            for (place, all) in answers.iter().enumerate() {
                let told = if settings.search.has_beams() {
                    1
                } else {
                    all.len()
                };
                for (number, answer) in all.iter().enumerate().take(told) {
                    let written = &heard.written[&(place, number)];
                    assert_eq!(*written, answer.tokens, "{name} {settings:?}");
                }
                assert!(!heard.written.contains_key(&(place, told)));
            }
            // Nothing waits for the end; beams agree on something before.
            let least = if settings.search.has_beams() { 1 } else { 12 };
            assert!(heard.calls > least * answers.len(), "{name} {settings:?}");
        }
    }
}

#[test]
fn answers_end_where_they_should() {
    let model = tiny();
    for (_, make) in DECODERS {
        for settings in searches() {
            let mut ended = [0, 0];
            for answer in run(make(&model).as_mut(), &requests(30), &settings).concat() {
                let end = answer.tokens.iter().position(|&id| id == 1);
                assert!(end.is_none_or(|place| place + 1 == answer.tokens.len()));
                assert!(answer.tokens.len() <= 24 && !answer.tokens.contains(&0));
                assert_eq!(answer.end == End::Stop, end.is_some());
                assert_eq!(answer.score.is_some(), settings.search.has_beams());
                ended[usize::from(end.is_some())] += 1;
            }
            assert!(ended[0] > 0 && ended[1] > 0, "{settings:?} {ended:?}");
        }
    }
}

#[test]
fn an_observer_ends_answers_in_every_search() {
    let model = tiny();
    for (name, make) in DECODERS {
        for settings in searches() {
            let free = run(make(&model).as_mut(), &requests(6), &settings);
            for (place, all) in free.iter().enumerate() {
                let tokens = &all[0].tokens;
                let stop = [tokens[3], tokens[4]];
                let mut heard = Heard {
                    stop: Some(stop),
                    ..Heard::default()
                };
                let request = requests(6).remove(place);
                let found = run_with(make(&model).as_mut(), &[request], &settings, &mut heard);
                for answer in &found[0] {
                    let at = answer.tokens.windows(2).position(|pair| pair == stop);
                    assert!(
                        at.is_none_or(|at| at + 2 == answer.tokens.len() && answer.end == End::Stop),
                        "{name} {settings:?} {answer:?}"
                    );
                }
                if !settings.search.has_beams() {
                    assert_eq!(found[0][0].tokens, tokens[..5], "{name} {settings:?}");
                }
                assert_eq!(heard.written[&(0, 0)], found[0][0].tokens);
            }
        }
    }
}

#[test]
fn nothing_asked_is_nothing_answered() {
    let model = tiny();
    for (_, make) in DECODERS {
        assert!(run(make(&model).as_mut(), &[], &Settings::default()).is_empty());
    }
}

#[test]
fn a_cancelled_answer_stops_within_a_token_and_leaves_nothing_behind() {
    struct Stopper(Cancel, usize);
    impl Observer for Stopper {
        fn ends(&mut self, _: usize, _: &[u32]) -> bool {
            self.1 += 1;
            self.0.cancel();
            false
        }
    }
    let model = tiny();
    for (_, make) in DECODERS {
        let mut decoder = make(&model);
        for settings in searches() {
            let cancel = Cancel::default();
            let mut stopper = Stopper(cancel.clone(), 0);
            let decoder = decoder.as_mut();
            let result = generate(decoder, &requests(4), &settings, &cancel, &mut stopper);
            assert_eq!(result.unwrap_err().code(), Code::Cancelled);
            assert!(stopper.1 <= 4 * 8 && decoder.rows() == 0);
        }
    }
}

#[test]
fn weights_that_are_not_finite_are_told_as_such() {
    let (config, parameters) = weights("generate/tiny");
    let norm = parameters.get("decoder.final_layer_norm.weight").unwrap();
    norm.set(&Tensor::full(f32::NAN, norm.dims(), &device()).unwrap())
        .unwrap();
    let model = Both::new(&config, &parameters, None);
    for (_, make) in DECODERS {
        for settings in searches() {
            let decoder = &mut *make(&model);
            let result = generate(
                decoder,
                &requests(2),
                &settings,
                &Cancel::default(),
                &mut (),
            );
            assert_eq!(result.unwrap_err().code(), Code::NotFinite);
        }
    }
}

#[test]
fn an_id_outside_the_vocabulary_is_refused_with_its_row() {
    let model = tiny();
    let bad = [vec![1], vec![300, 1]].map(|ids| Request { ids, key: 0 });
    for (_, make) in DECODERS {
        let (decoder, settings) = (&mut *make(&model), Settings::default());
        let result = generate(decoder, &bad, &settings, &Cancel::default(), &mut ());
        let error = result.unwrap_err();
        assert_eq!(
            (error.code(), &error.context()["row"]),
            (Code::InputRow, &Value::from(1))
        );
        assert_eq!(decoder.rows(), 0);
    }
}
