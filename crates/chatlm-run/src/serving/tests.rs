use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use chatlm_job::Job;
use chatlm_t5::{Config, Parameters, StoredKind, Weights};
use chatlm_tokenizer::Tokenizer;

use super::*;
use crate::generator::Engine;

/// A generator of random weights, and the folder of its tokenizer.
fn generator() -> Generator {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["一二三四五六七八九十天地玄黄宇宙洪荒日月盈昃"; 8];
    let options = chatlm_tokenizer::TrainOptions {
        preset: "char-bpe".parse().unwrap(),
        vocab_size: 64,
        min_frequency: 1,
        max_memory: None,
        files: None,
    };
    let out: PathBuf = folder.path().join("t");
    let rows = texts.iter().map(|text| Ok((*text).to_owned()));
    chatlm_tokenizer::train(rows, &options, &out, false, &Job::quiet()).unwrap();
    let tokenizer = Tokenizer::load(&out).unwrap();
    let config = Config {
        vocab_size: tokenizer.vocab_size(),
        d_model: 32,
        d_kv: 8,
        d_ff: 64,
        num_layers: 2,
        num_decoder_layers: Some(2),
        num_heads: 4,
        pad_token_id: tokenizer.pad_id(),
        eos_token_id: tokenizer.eos_id(),
        decoder_start_token_id: tokenizer.pad_id(),
        ..Config::default()
    };
    let parameters = Parameters::random(&config, 3, &candle_core::Device::Cpu).unwrap();
    let weights = Weights::of_parameters(&config, &parameters, None, StoredKind::F32).unwrap();
    Generator::around(Engine::Weights(Arc::new(weights)), tokenizer, 64)
}

fn serving(limits: Limits) -> Serving {
    Serving::start(generator(), limits).unwrap()
}

fn question(prompt: &str, given: GivenSettings) -> Question {
    Question {
        prompt: prompt.to_owned(),
        settings: given,
        ..Question::default()
    }
}

fn sampled(seed: u64, tokens: usize) -> GivenSettings {
    GivenSettings {
        search: Some("sample".to_owned()),
        seed: Some(seed),
        max_new_tokens: Some(tokens),
        ..GivenSettings::default()
    }
}

fn ask(serving: &Serving, question: Question) -> (Receiver<Told>, Cancel) {
    let (news, told) = channel();
    let cancel = serving
        .ask(question, Box::new(move |told| news.send(told).is_ok()))
        .unwrap();
    (told, cancel)
}

/// What was streamed of each answer with its rest, and the end.
fn all(told: &Receiver<Told>) -> (Vec<String>, Outcome) {
    let mut texts = Vec::new();
    loop {
        match told.recv().unwrap() {
            Told::Text { answer, text, .. } => {
                texts.resize(texts.len().max(answer + 1), String::new());
                texts[answer] += &text;
            }
            Told::Done(outcome) => {
                texts.resize(outcome.answers.len(), String::new());
                for (text, rest) in texts.iter_mut().zip(&outcome.rest) {
                    *text += rest;
                }
                return (texts, outcome);
            }
            Told::Failed(error) => panic!("{error}"),
        }
    }
}

#[test]
fn an_answer_is_the_same_alone_and_among_others_and_streamed_whole() {
    let prompts = [
        "一二三",
        "天地玄黄",
        "日月",
        "宇宙洪荒五六",
        "九",
        "八七六五四",
    ];
    let settings = |place: usize| match place % 4 {
        0 => sampled(7, 20),
        1 => GivenSettings {
            search: Some("beam".to_owned()),
            beams: Some(3),
            answers: Some(2),
            max_new_tokens: Some(12),
            ..GivenSettings::default()
        },
        2 => GivenSettings {
            answers: Some(3),
            ..sampled(9, 15)
        },
        _ => GivenSettings {
            max_new_tokens: Some(18),
            stop: Some(vec!["三".to_owned()]),
            ..GivenSettings::default()
        },
    };
    let alone: Vec<_> = prompts
        .iter()
        .enumerate()
        .map(|(place, prompt)| {
            let serving = serving(Limits::default());
            let (told, _) = ask(&serving, question(prompt, settings(place)));
            let (texts, outcome) = all(&told);
            for (text, answer) in texts.iter().zip(&outcome.answers) {
                assert_eq!(*text, answer.response, "{place}");
            }
            let direct = generator();
            let given = direct.settings(&settings(place)).unwrap();
            let want = direct
                .answer(&[(*prompt).to_owned()], &given, 1, &Job::quiet())
                .unwrap();
            assert_eq!(outcome.answers, want, "{place}");
            outcome.answers
        })
        .collect();
    for limits in [
        Limits::default(),
        Limits {
            rows: 4,
            prompt_tokens: 3,
            ..Limits::default()
        },
    ] {
        let together = serving(limits);
        let asked: Vec<_> = prompts
            .iter()
            .enumerate()
            .map(|(place, prompt)| ask(&together, question(prompt, settings(place))).0)
            .collect();
        for (told, want) in asked.iter().zip(&alone) {
            let (texts, outcome) = all(told);
            assert_eq!(&outcome.answers, want);
            assert_eq!(texts.len(), want.len());
        }
        let stats = together.stats();
        assert_eq!((stats.answered, stats.waiting), (6, 0));
    }
}

#[test]
fn one_that_leaves_frees_its_place_and_tells_what_it_had_said() {
    let serving = serving(Limits {
        rows: 1,
        ..Limits::default()
    });
    let long = GivenSettings {
        min_new_tokens: Some(100_000),
        ..sampled(1, 100_000)
    };
    let (first, cancel) = ask(&serving, question("一", long.clone()));
    let (second, _) = ask(&serving, question("二", sampled(2, 3)));
    // Both cannot run: the second waits for the first to leave.
    while !matches!(first.recv().unwrap(), Told::Text { .. }) {}
    assert_eq!(serving.stats().waiting, 1);
    cancel.cancel();
    let (_, outcome) = all(&first);
    assert_eq!(outcome.answers[0].finish_reason, FinishReason::Cancelled);
    assert!(!outcome.answers[0].tokens.is_empty());
    let (_, outcome) = all(&second);
    assert!(outcome.answers[0].tokens.len() <= 3);
    // Nobody listens any more.
    let (gone, _) = ask(&serving, question("三", long.clone()));
    drop(gone);
    let mut late = question("四", long);
    late.timeout = Some(Duration::from_millis(50));
    let (late, _) = ask(&serving, late);
    let (_, outcome) = all(&late);
    assert_eq!(
        outcome.answers.first().map(|a| a.finish_reason),
        Some(FinishReason::Cancelled)
    );
    assert_eq!(serving.stats().cancelled, 3);
}

#[test]
fn a_full_queue_and_too_large_a_request_are_refused() {
    let serving = serving(Limits {
        rows: 2,
        waiting: 2,
        ..Limits::default()
    });
    let long = || sampled(1, 4_000);
    let mut kept = Vec::new();
    let refused = loop {
        let (news, told) = channel();
        kept.push(told);
        let tell: Tell = Box::new(move |told| news.send(told).is_ok());
        match serving.ask(question("一", long()), tell) {
            Ok(_) => assert!(kept.len() < 9),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code(), Code::QueueFull);
    assert_eq!(serving.stats().refused, 1);
    let wide = GivenSettings {
        answers: Some(3),
        ..long()
    };
    let error = serving
        .ask(question("一", wide), Box::new(|_| true))
        .unwrap_err();
    assert_eq!(error.code(), Code::Usage);
}

#[test]
fn clients_take_turns() {
    let mut queue = queue::Queue::default();
    let waiting = |client: &str, place: u64| Waiting {
        request: Request {
            ids: vec![1],
            key: place,
        },
        prompt: String::new(),
        cut: false,
        settings: Arc::default(),
        stops: Stops::new(&[]),
        client: client.to_owned(),
        came: Instant::now(),
        deadline: None,
        cancel: Cancel::default(),
        bytes: 0,
        rows: 1,
        tell: Box::new(|_| true),
    };
    for place in 0..4 {
        queue.push(waiting("greedy", place));
    }
    queue.push(waiting("modest", 10));
    queue.push(waiting("modest", 11));
    assert!(queue.pop_if(|_| false).is_none());
    let gone = queue.take_where(|waiting| waiting.request.key == 1);
    assert_eq!(gone.len(), 1);
    let order: Vec<u64> = std::iter::from_fn(|| queue.pop_if(|_| true))
        .map(|waiting| waiting.request.key)
        .collect();
    assert_eq!(order, [0, 10, 2, 11, 3]);
    assert!(queue.is_empty());
}

#[test]
fn dropped_it_gives_up_what_runs() {
    let serving = serving(Limits::default());
    let long = GivenSettings {
        min_new_tokens: Some(100_000),
        ..sampled(1, 100_000)
    };
    let (told, _) = ask(&serving, question("一", long));
    while !matches!(told.recv().unwrap(), Told::Text { .. }) {}
    drop(serving);
    let (_, outcome) = all(&told);
    assert_eq!(outcome.answers[0].finish_reason, FinishReason::Cancelled);
}

/// Earlier turns of a conversation are given up before the question is.
#[test]
fn a_shorter_prompt_is_taken_where_there_is_no_room() {
    let serving = serving(Limits::default());
    let asked = |prompt: &str, shorter: &[&str]| {
        let question = Question {
            shorter: shorter.iter().map(|&text| text.to_owned()).collect(),
            ..question(prompt, sampled(1, 4))
        };
        let (_, outcome) = all(&ask(&serving, question).0);
        (outcome.answers[0].prompt.clone(), outcome.cut)
    };
    let (long, longer) = ("天".repeat(70), "地".repeat(90));
    assert_eq!(asked("一", &["二"]), ("一".to_owned(), false));
    assert_eq!(
        asked(&longer, &[&long, "三", "四"]),
        ("三".to_owned(), true)
    );
    assert_eq!(asked(&longer, &[&long]), (long.clone(), true));
    assert_eq!(asked(&longer, &[]), (longer.clone(), true));
}
