//! The loader: every row once an epoch, the same batches from anywhere, broken rows named.

use chatlm_dataset::{Batch, Cursor, Loader, LoaderOptions, SetSpec, Shard};
use chatlm_job::{Code, Error, Job};
use chatlm_tokenizer::{Preset, Tokenizer, TrainOptions, train};
use proptest::prelude::*;
use std::sync::OnceLock;

use super::{Folder, pairs};

/// A byte-level tokenizer that is made once.
fn tokenizer() -> Tokenizer {
    static MADE: OnceLock<(Tokenizer, Folder)> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let folder = Folder::new();
        let options = TrainOptions {
            preset: Preset::ByteBpe,
            vocab_size: 300,
            min_frequency: 2,
            max_memory: None,
            files: None,
        };
        let texts = ["提问 prompt", "回答 response"].map(|text| Ok(text.repeat(20)));
        train(
            texts.into_iter(),
            &options,
            &folder.at("t"),
            false,
            &Job::quiet(),
        )
        .unwrap();
        (Tokenizer::load(&folder.at("t")).unwrap(), folder)
    });
    made.0.clone()
}

fn spec(path: String, weight: f64) -> SetSpec {
    SetSpec {
        paths: vec![path],
        weight,
    }
}

fn options(sets: Vec<SetSpec>, batch_size: usize) -> LoaderOptions {
    LoaderOptions {
        sets,
        columns: vec!["prompt".to_owned(), "response".to_owned()],
        batch_size,
        batch_tokens: None,
        group_by_length: false,
        max_length: 32,
        shuffle: true,
        seed: 23333,
        buffer: 65_536,
        shard: Shard::default(),
        threads: None,
        cache: None,
    }
}

fn open(options: LoaderOptions) -> Result<Loader, Error> {
    Loader::open(options, tokenizer(), &Job::quiet())
}

/// `rows` numbered rows as parquet and as JSON lines.
fn numbered(folder: &Folder, rows: usize) -> (String, String) {
    let texts: Vec<String> = (0..rows).map(|n| format!("{n}")).collect();
    let table: Vec<_> = texts
        .iter()
        .map(|n| (Some(n.as_str()), Some(n.as_str())))
        .collect();
    pairs(&folder.at("rows.parquet"), &table);
    let lines: String = texts
        .iter()
        .map(|n| format!("{{\"prompt\":\"{n}\",\"response\":\"{n}\"}}\n"))
        .collect();
    (folder.name("rows.parquet"), folder.put("rows.jsonl", lines))
}

fn take(loader: &mut Loader, batches: usize) -> Vec<Batch> {
    (0..batches).map(|_| loader.next_batch().unwrap()).collect()
}

#[test]
fn every_row_comes_once_an_epoch_from_any_format() {
    let folder = Folder::new();
    let (parquet, lines) = numbered(&folder, 5000);
    for shuffle in [true, false] {
        let mut both = [&parquet, &lines].map(|path| {
            let options = LoaderOptions {
                shuffle,
                ..options(vec![spec(path.clone(), 1.0)], 64)
            };
            open(options).unwrap()
        });
        assert_eq!((both[0].rows(), both[0].batches_per_epoch()), (5000, 79));
        let batches = take(&mut both[0], 158);
        assert_eq!(batches, take(&mut both[1], 158));
        let mut orders = Vec::new();
        for (number, epoch) in batches.chunks(79).enumerate() {
            assert!(epoch.iter().all(|batch| batch.epoch == number as u64));
            assert_eq!(epoch[78].indices.len(), 5000 - 78 * 64);
            assert_eq!(
                epoch[78].next,
                Cursor {
                    epoch: number as u64 + 1,
                    row: 0
                }
            );
            let order: Vec<u64> = epoch
                .iter()
                .flat_map(|batch| batch.indices.clone())
                .collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..5000).collect::<Vec<_>>());
            assert_eq!(order == sorted, !shuffle);
            orders.push(order);
        }
        assert_eq!(orders[0] == orders[1], !shuffle);
        // Indices tell the rows.
        for batch in &batches[..10] {
            for (row, index) in batch.indices.iter().enumerate() {
                let ids = &batch.fields[0][row];
                assert_eq!(tokenizer().decode(ids).unwrap(), index.to_string());
                assert_eq!(both[0].text(*index, 1).unwrap(), index.to_string());
            }
        }
        let mut keys: Vec<u64> = batches
            .iter()
            .flat_map(|batch| batch.keys.clone())
            .collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 10_000);
    }
}

#[test]
fn the_end_mark_is_always_last_and_length_is_kept() {
    let folder = Folder::new();
    let long = "很长的回答".repeat(100);
    pairs(
        &folder.at("a.parquet"),
        &[(Some("短"), Some(&long)), (Some(&long), Some("短"))],
    );
    for length in [2, 3, 7, 32] {
        let options = options(vec![spec(folder.name("a.parquet"), 1.0)], 2);
        let mut loader = open(LoaderOptions {
            max_length: length,
            ..options
        })
        .unwrap();
        let batch = loader.next_batch().unwrap();
        for ids in batch.fields.iter().flatten() {
            assert_eq!(ids.last(), Some(&tokenizer().eos_id()));
            assert!(ids.len() <= length && ids.len() >= 2);
            assert_eq!(
                ids.iter().filter(|id| **id == tokenizer().eos_id()).count(),
                1
            );
        }
        assert!(batch.fields.iter().flatten().any(|ids| ids.len() == length));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn seeking_gives_the_batches_of_an_undisturbed_run(
        rows in 1usize..3000, batch in 1usize..200, buffer in 0u64..4000, seed: u64,
        weights in (1u32..6, 1u32..6), shuffle: bool, at in 0usize..40,
    ) {
        let folder = Folder::new();
        let (parquet, lines) = numbered(&folder, rows);
        let weight = |quarters: u32| f64::from(quarters) / 4.0;
        let sets = vec![spec(parquet, weight(weights.0)), spec(lines, weight(weights.1))];
        let options = LoaderOptions { seed, buffer, shuffle, ..options(sets, batch) };
        let Ok(mut loader) = open(options.clone()) else {
            // So few rows that a quarter of them is none.
            prop_assert!(rows < 4);
            return Ok(());
        };
        let undisturbed = take(&mut loader, at + 4);
        let start = if at == 0 { Cursor { epoch: 0, row: 0 } } else { undisturbed[at - 1].next };
        let mut fresh = open(options).unwrap();
        fresh.seek(start);
        prop_assert_eq!(&take(&mut fresh, 4), &undisturbed[at..]);
        // Going back works too.
        loader.seek(start);
        prop_assert_eq!(&take(&mut loader, 4), &undisturbed[at..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn shards_share_the_batches_in_turn_and_threads_change_nothing(
        rows in 1usize..2500, batch in 1usize..70, buffer in 0u64..3000, seed: u64, shuffle: bool,
        group_by_length: bool, tokens in prop::option::of(64usize..2000),
        world in 1usize..5, threads in 1usize..5, rounds in 1usize..12, other in 1usize..4,
    ) {
        let folder = Folder::new();
        let (parquet, _) = numbered(&folder, rows);
        let whole = LoaderOptions {
            seed, buffer, shuffle, group_by_length, batch_tokens: tokens,
            ..options(vec![spec(parquet, 1.0)], batch)
        };
        let all = take(&mut open(whole.clone()).unwrap(), rounds * world + 2 * other);
        let shard = |rank: usize, world: usize, from: Cursor, count: usize| {
            let options = LoaderOptions {
                shard: Shard { rank, world }, threads: Some(threads), ..whole.clone()
            };
            let mut loader = open(options).unwrap();
            loader.seek(from);
            take(&mut loader, count)
        };
        // Each batch of the one order goes to one shard.
        for rank in 0..world {
            for (round, ours) in shard(rank, world, START, rounds).iter().enumerate() {
                let expected = &all[round * world + rank];
                prop_assert_eq!((&ours.indices, &ours.fields), (&expected.indices, &expected.fields));
                prop_assert_eq!((&ours.keys, ours.epoch), (&expected.keys, expected.epoch));
                prop_assert_eq!(ours.next, all[(round + 1) * world - 1].next);
            }
        }
        // Another number of workers goes on where these stopped.
        let from = all[rounds * world - 1].next;
        for rank in 0..other {
            for (round, ours) in shard(rank, other, from, 2).iter().enumerate() {
                prop_assert_eq!(&ours.indices, &all[rounds * world + round * other + rank].indices);
            }
        }
    }

    #[test]
    fn grouped_batches_hold_each_row_once_an_epoch_and_resume_anywhere(
        rows in 1usize..12_000, batch in 1usize..300, seed: u64, at in 0usize..30,
        tokens in prop::option::of(64usize..4000),
    ) {
        let folder = Folder::new();
        let (parquet, _) = numbered(&folder, rows);
        let options = LoaderOptions {
            seed, group_by_length: true, batch_tokens: tokens, buffer: 4096,
            ..options(vec![spec(parquet, 1.0)], batch)
        };
        let mut loader = open(options.clone()).unwrap();
        let mut epoch = Vec::new();
        while epoch.last().is_none_or(|batch: &Batch| batch.next.epoch == 0) {
            epoch.push(loader.next_batch().unwrap());
        }
        let mut seen: Vec<u64> = epoch.iter().flat_map(|batch| batch.indices.clone()).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..rows as u64).collect::<Vec<_>>());
        let mut keys: Vec<u64> = epoch.iter().flat_map(|batch| batch.keys.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        prop_assert_eq!(keys.len(), rows);
        for batch in &epoch {
            let width: usize = (0..2)
                .map(|field| batch.fields[field].iter().map(Vec::len).max().unwrap_or(0))
                .sum();
            match tokens {
                Some(tokens) => prop_assert!(width * batch.keys.len() <= tokens),
                None => prop_assert!(batch.keys.len() == batch_size(&options, batch.next, rows)),
            }
        }
        let at = at % epoch.len();
        let mut fresh = open(options).unwrap();
        fresh.seek(if at == 0 { START } else { epoch[at - 1].next });
        let count = 3.min(epoch.len() - at);
        prop_assert_eq!(&take(&mut fresh, count), &epoch[at..at + count]);
    }
}

const START: Cursor = Cursor { epoch: 0, row: 0 };

/// Rows of the batch before a cursor.
fn batch_size(options: &LoaderOptions, next: Cursor, rows: usize) -> usize {
    match (next.epoch, rows % options.batch_size) {
        (1, rest) if rest > 0 => rest,
        _ => options.batch_size,
    }
}

#[test]
fn weights_say_how_often_rows_come() {
    let folder = Folder::new();
    let (parquet, lines) = numbered(&folder, 1000);
    let mut loader = open(options(vec![spec(parquet, 2.0), spec(lines, 0.5)], 100)).unwrap();
    assert_eq!(loader.rows(), 2500);
    let halves: Vec<Vec<u64>> = (0..2)
        .map(|_| {
            let indices: Vec<u64> = take(&mut loader, 25)
                .into_iter()
                .flat_map(|batch| batch.indices)
                .collect();
            assert!(
                (0..1000).all(|row| indices.iter().filter(|index| **index == row).count() == 2)
            );
            indices.into_iter().filter(|index| *index >= 1000).collect()
        })
        .collect();
    assert_eq!((halves[0].len(), halves[1].len()), (500, 500));
    let again = halves[0]
        .iter()
        .filter(|index| halves[1].contains(index))
        .count();
    assert!(
        (180..320).contains(&again),
        "{again} rows of the first half again"
    );
}

#[test]
fn a_row_without_a_prompt_is_named() {
    let folder = Folder::new();
    let good = "{\"prompt\":\"a\",\"response\":\"b\"}\n";
    for (row, words) in [
        (
            "{\"response\":\"b\"}",
            "no field \"prompt\"; it has response",
        ),
        ("{\"prompt\":null,\"response\":\"b\"}", "\"prompt\" is null"),
        (
            "{\"prompt\":\"\",\"response\":\"b\"}",
            "\"prompt\" is empty",
        ),
        (
            "{\"prompt\":3,\"response\":\"b\"}",
            "\"prompt\" is a number",
        ),
    ] {
        let path = folder.put("a.jsonl", format!("{good}{good}{row}\n{good}"));
        let error = open(options(vec![spec(path, 1.0)], 2)).err().unwrap();
        assert_eq!(error.code(), Code::InputRow);
        assert!(
            error.message().contains("a.jsonl, row 2") && error.message().contains(words),
            "{error}"
        );
        assert_eq!(error.context()["field"], "prompt");
    }
    for hole in [None, Some("")] {
        pairs(
            &folder.at("b.parquet"),
            &[
                (Some("a"), Some("b")),
                (Some("a"), Some("b")),
                (hole, Some("b")),
            ],
        );
        let sets = vec![spec(folder.name("b.parquet"), 1.0)];
        let mut loader = open(LoaderOptions {
            shuffle: false,
            ..options(sets, 1)
        })
        .unwrap();
        take(&mut loader, 2);
        for _ in 0..2 {
            let error = loader.next_batch().unwrap_err();
            assert_eq!(error.code(), Code::InputRow);
            assert!(error.message().contains("b.parquet, row 2"), "{error}");
        }
    }
    let sets = vec![spec(folder.name("b.parquet"), 1.0)];
    let wanted = LoaderOptions {
        columns: vec!["chosen".to_owned()],
        ..options(sets, 1)
    };
    let error = open(wanted).err().unwrap();
    assert!(error.message().contains("prompt, response"), "{error}");
}

#[test]
fn wrong_settings_and_empty_inputs_are_refused() {
    let folder = Folder::new();
    let (parquet, _) = numbered(&folder, 3);
    let sets = |weight: f64| vec![spec(parquet.clone(), weight)];
    let code = |options: LoaderOptions| open(options).err().map(|error| error.code());
    for wrong in [
        LoaderOptions {
            batch_tokens: Some(63),
            ..options(sets(1.0), 1)
        },
        LoaderOptions {
            shard: Shard { rank: 2, world: 2 },
            ..options(sets(1.0), 1)
        },
    ] {
        assert_eq!(code(wrong), Some(Code::ConfigInvalid));
    }
    assert_eq!(code(options(sets(1.0), 0)), Some(Code::ConfigInvalid));
    assert_eq!(code(options(sets(0.0), 1)), Some(Code::ConfigInvalid));
    assert_eq!(code(options(sets(f64::NAN), 1)), Some(Code::ConfigInvalid));
    assert_eq!(
        code(LoaderOptions {
            max_length: 1,
            ..options(sets(1.0), 1)
        }),
        Some(Code::ConfigInvalid)
    );
    assert_eq!(
        code(options(vec![spec(folder.put("e.jsonl", ""), 1.0)], 1)),
        Some(Code::InputFormat)
    );
    assert_eq!(
        code(options(vec![spec(folder.name("no.jsonl"), 1.0)], 1)),
        Some(Code::InputNotFound)
    );
}

#[test]
fn the_cancel_flag_stops_the_loader() {
    let folder = Folder::new();
    let (parquet, _) = numbered(&folder, 100);
    let job = Job::quiet();
    let options = options(vec![spec(parquet, 1.0)], 10);
    let mut loader = Loader::open(options, tokenizer(), &job).unwrap();
    loader.next_batch().unwrap();
    job.cancel.cancel();
    assert_eq!(loader.next_batch().unwrap_err().code(), Code::Cancelled);
}
