//! What the sources of settings make together.

use super::*;
use serde_json::json;

fn given(fields: Value) -> GivenSettings {
    serde_json::from_value(fields).unwrap()
}

fn resolved(fields: Value, folder: Value) -> Settings {
    resolve(&given(fields), &folder).unwrap().decoding
}

#[test]
fn given_beats_folder_beats_default() {
    let folder = json!({"max_new_tokens": 50, "top_k": 7, "do_sample": true});
    let settings = resolved(json!({"topK": 3}), folder);
    assert_eq!((settings.top_k, settings.max_new_tokens), (3, 50));
    assert_eq!(settings.search, Search::Sample);
    assert_eq!(resolved(json!({}), Value::Null), Settings::default());
}

#[test]
fn the_search_follows_from_what_is_said() {
    let beams = json!({"num_beams": 3});
    let drawn = json!({"num_beams": 3, "do_sample": true});
    let contrastive = json!({"penalty_alpha": 0.5, "top_k": 6});
    for (fields, folder, want, width) in [
        (json!({}), &beams, Search::Beam, 3),
        (json!({}), &drawn, Search::BeamSample, 3),
        (json!({}), &contrastive, Search::Contrastive, 5),
        (json!({}), &json!({"penalty_alpha": 0.5}), Search::Greedy, 5),
        (json!({"beams": 4}), &json!({}), Search::Beam, 4),
        (json!({"beams": 4}), &contrastive, Search::Beam, 4),
        (
            json!({"beams": 4}),
            &json!({"do_sample": true}),
            Search::BeamSample,
            4,
        ),
        (json!({"beams": 1}), &drawn, Search::Sample, 1),
        (json!({"beams": 1}), &beams, Search::Greedy, 1),
        (json!({"search": "beam"}), &json!({}), Search::Beam, 5),
        (json!({"search": "beam"}), &drawn, Search::Beam, 3),
        (json!({"search": "greedy"}), &drawn, Search::Greedy, 5),
        (
            json!({"penaltyAlpha": 0.4}),
            &json!({}),
            Search::Contrastive,
            5,
        ),
    ] {
        let settings = resolved(fields.clone(), folder.clone());
        assert_eq!(
            (settings.search, settings.beams),
            (want, width),
            "{fields} {folder}"
        );
    }
    let settings = resolved(json!({"search": "contrastive"}), json!({}));
    assert_eq!((settings.top_k, settings.penalty_alpha), (4, 0.6));
    let settings = resolved(json!({}), contrastive);
    assert_eq!((settings.top_k, settings.penalty_alpha), (6, 0.5));
}

#[test]
fn a_generation_config_is_honoured() {
    let folder = json!({
        "_from_model_config": true, "transformers_version": "5.23.0", "use_cache": true,
        "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": [1, 7],
        "num_beams": 4, "num_return_sequences": 2, "length_penalty": -1.5, "early_stopping": "never",
        "no_repeat_ngram_size": 3, "repetition_penalty": 1.2, "temperature": 0.0, "max_length": 21,
        "min_new_tokens": 2, "bad_words_ids": [[5], [6, 7]], "suppress_tokens": [9],
        "begin_suppress_tokens": [8], "forced_bos_token_id": 4, "forced_eos_token_id": 1,
        "stop_strings": ["甲", "乙"],
    });
    let found = resolve(&GivenSettings::default(), &folder).unwrap();
    assert_eq!(found.stop, ["甲", "乙"]);
    let want = Settings {
        search: Search::Beam,
        max_new_tokens: 20,
        min_new_tokens: 2,
        beams: 4,
        answers: 2,
        length_penalty: -1.5,
        early_stopping: EarlyStopping::Never,
        no_repeat_ngram: 3,
        repetition_penalty: 1.2,
        end_tokens: vec![1, 7],
        bad_words: vec![vec![5], vec![6, 7]],
        suppress: vec![9],
        suppress_first: vec![8],
        forced_first: Some(4),
        forced_last: Some(1),
        ..Settings::default()
    };
    assert_eq!(found.decoding, want);
}

#[test]
fn presets_are_those_of_the_reference() {
    let folder = json!({
        "repetition_penalty": 1.5, "temperature": 0.3, "top_k": 9, "num_beams": 2,
        "max_new_tokens": 64, "num_return_sequences": 2, "length_penalty": 3.0,
    });
    let beam = Settings {
        search: Search::BeamSample,
        beams: 5,
        top_k: 50,
        top_p: 0.95,
        no_repeat_ngram: 4,
        length_penalty: -2.0,
        early_stopping: EarlyStopping::Yes,
        max_new_tokens: 64,
        ..Settings::default()
    };
    assert_eq!(
        resolved(json!({"preset": "chatlm-beam"}), folder.clone()),
        beam
    );
    let sample = resolved(json!({"preset": "chatlm-sample"}), folder.clone());
    let want = (Search::Sample, 50, 0.98, 0.8, 4, 1.0, 64);
    let Settings {
        search,
        top_k,
        temperature,
        top_p,
        no_repeat_ngram,
        ..
    } = sample;
    let Settings {
        repetition_penalty,
        max_new_tokens,
        ..
    } = sample;
    let got = (
        search,
        top_k,
        temperature,
        top_p,
        no_repeat_ngram,
        repetition_penalty,
        max_new_tokens,
    );
    assert_eq!(got, want);
    let plain =
        json!({"preset": "chatlm-beam", "search": "beam", "beams": 3, "lengthPenalty": 1.0});
    let plain = resolved(plain, folder);
    assert_eq!(
        (plain.search, plain.beams, plain.length_penalty),
        (Search::Beam, 3, 1.0)
    );
    assert_eq!((plain.no_repeat_ngram, plain.top_k), (4, 0));
}

#[test]
fn values_out_of_range_are_wrong_usage() {
    for fields in [
        json!({"topP": 0.0}),
        json!({"topP": 1.5}),
        json!({"temperature": -1.0}),
        json!({"maxNewTokens": 0}),
        json!({"repetitionPenalty": 0.0}),
        json!({"beams": 0}),
        json!({"beams": 513}),
        json!({"earlyStopping": "soon"}),
        json!({"penaltyAlpha": 1.1}),
        json!({"search": "widest"}),
        json!({"preset": "chatlm-best"}),
        json!({"stop": ["a", ""]}),
        json!({"answers": 0}),
        json!({"answers": 2}),
        json!({"search": "beam", "beams": 3, "answers": 4}),
        json!({"search": "contrastive", "answers": 2}),
        json!({"search": "contrastive", "topK": 1}),
    ] {
        let error = resolve(&given(fields.clone()), &Value::Null).unwrap_err();
        assert_eq!(error.code(), Code::Usage, "{fields}");
        assert!(!error.help().is_empty());
    }
}

#[test]
fn a_wrong_value_of_the_folder_is_the_models_fault_where_it_takes_part() {
    let folder = json!({"temperature": 0.0, "num_return_sequences": 3});
    assert_eq!(resolved(json!({}), folder.clone()).answers, 1);
    let error = resolve(&given(json!({"search": "sample"})), &folder).unwrap_err();
    assert_eq!(error.code(), Code::ModelInvalid);
    assert!(
        error.message().contains("temperature"),
        "{}",
        error.message()
    );
    // More answers than beams are those of the folder: as many as there are.
    let settings = resolved(json!({"beams": 2}), folder);
    assert_eq!((settings.search, settings.answers), (Search::Beam, 2));
}
