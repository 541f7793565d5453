#![expect(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]

use candle_core::{Device, Tensor, Var};
use chatlm_job::{Cancel, Code, Random, Result};
use proptest::prelude::*;

use super::*;

/// Runs `work` as each of `world` workers, on threads of their own.
pub(crate) fn together<R: Send>(world: usize, work: impl Fn(Communicator) -> R + Sync) -> Vec<R> {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..world)
            .map(|rank| {
                let (path, work) = (folder.path(), &work);
                scope.spawn(move || {
                    let link = SocketLink::connect(path, rank, world, &Cancel::default());
                    work(Communicator::new(link.unwrap()))
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    })
}

fn values(rank: usize, length: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(chatlm_job::mix(seed, rank as u64));
    let value = |n: u64| n as f32 / 1e3 - 50.0;
    (0..length).map(|_| value(random.below(100_000))).collect()
}

/// In the order of ranks.
fn expected(world: usize, length: usize, seed: u64) -> Vec<f32> {
    let mut sum = values(0, length, seed);
    for rank in 1..world {
        for (sum, value) in sum.iter_mut().zip(values(rank, length, seed)) {
            *sum += value;
        }
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any sizes, also above what a socket holds, below the world's, and none.
    #[test]
    fn sums_are_those_in_the_order_of_ranks(
        world in 1usize..5, length in prop_oneof![0usize..9, 1000usize..300_000], seed: u64,
    ) {
        let found = together(world, |mut talk| {
            let mut own = values(talk.rank(), length, seed);
            talk.all_reduce(&mut own).unwrap();
            let mut few = [talk.rank() as f64, 1.0];
            talk.sum(&mut few).unwrap();
            let any = talk.any(talk.rank() + 1 == talk.world()).unwrap();
            let mut word = format!("{} says {seed}", talk.rank()).into_bytes();
            talk.broadcast(&mut word).unwrap();
            let all = talk.gather(vec![talk.rank() as u8; talk.rank()]).unwrap();
            talk.barrier().unwrap();
            (own, few, any, word, all)
        });
        let pairs = (world * (world - 1) / 2) as f64;
        for (rank, (own, few, any, word, all)) in found.into_iter().enumerate() {
            prop_assert_eq!(own, expected(world, length, seed));
            prop_assert_eq!(few, [pairs, world as f64]);
            prop_assert!(any);
            prop_assert_eq!(word, format!("0 says {seed}").into_bytes());
            let gathered = (0..world).map(|r| vec![r as u8; r]).collect::<Vec<_>>();
            prop_assert_eq!(all, if rank == 0 { gathered } else { Vec::new() });
        }
    }

    /// Gradients come in any order, some not at all; owners have the sums, and only they.
    #[test]
    fn owners_have_the_sums_of_gradients(
        world in 1usize..5, sizes in proptest::collection::vec(1usize..2000, 1..12), seed: u64,
    ) {
        let found = together(world, |mut talk| {
            let rank = talk.rank();
            let mut reducer = Reducer::new(Shares::new(&sizes, world), sizes.clone());
            reducer.agree_on_order(&mut talk, &[sizes.len() - 1]).unwrap();
            let (send, ready) = std::sync::mpsc::channel();
            let (free, _back) = std::sync::mpsc::channel();
            for (index, &size) in sizes.iter().enumerate() {
                // The last worker lacks the first weight.
                if index > 0 || rank + 1 < world {
                    send.send((index, values(rank, size, seed))).unwrap();
                }
            }
            drop(send);
            reducer.reduce_as_they_come(&mut talk, &ready, &free).unwrap();
            let own = reducer.shares().of(rank);
            own.into_iter().map(|index| (index, reducer.sum(index).to_vec())).collect::<Vec<_>>()
        });
        let mut all: Vec<_> = found.into_iter().flatten().collect();
        all.sort_by_key(|(index, _)| *index);
        prop_assert_eq!(all.len(), sizes.len());
        for (index, sum) in all {
            let givers = if index == 0 { world - 1 } else { world };
            let want = if givers == 0 { vec![0.0; sizes[0]] } else { expected(givers, sizes[index], seed) };
            prop_assert_eq!(sum, want);
        }
    }

    /// Tensors of any shapes and owners, by both ways: owners have the sums, to the bit as they are made in
    /// the order of ranks, and everybody has the owners' weights.
    #[test]
    fn tensors_are_summed_for_their_owners_and_handed_round(
        world in 1usize..5,
        shapes in proptest::collection::vec((1usize..7, 1usize..300, 0usize..4), 1..9),
        stand_in: bool,
        seed: u64,
    ) {
        let tensor = |rank: usize, at: usize| {
            let (rows, columns, _) = shapes[at];
            let values = values(rank, rows * columns, seed ^ at as u64);
            Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
        };
        let owner = |at: usize| shapes[at].2 % world;
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let found = together(world, |mut talk| {
            let rank = talk.rank();
            let choose = if stand_in { nccl::tests::by_stand_in } else { carrier };
            let (mut carrier, _) = choose(&mut talk, &Device::Cpu).unwrap();
            let all = (0..shapes.len()).map(|at| (owner(at), tensor(rank, at))).collect::<Vec<_>>();
            let sums = carrier.reduce(&mut talk, &all).unwrap();
            let vars = all.iter().enumerate().map(|(at, (owner, _))| {
                (*owner, Var::from_tensor(&tensor(rank, at)).unwrap())
            }).collect::<Vec<_>>();
            let weights = vars.iter().map(|(owner, var)| (*owner, var)).collect::<Vec<_>>();
            carrier.hand_round(&mut talk, &weights).unwrap();
            let dims = sums.iter().map(|sum| sum.dims().to_vec()).collect::<Vec<_>>();
            (dims, sums.iter().map(flat).collect::<Vec<_>>(), vars.iter().map(|(_, var)| flat(var)).collect::<Vec<_>>())
        });
        for (rank, (dims, sums, weights)) in found.into_iter().enumerate() {
            let own: Vec<usize> = (0..shapes.len()).filter(|&at| owner(at) == rank).collect();
            let size = |at: &usize| shapes[*at].0 * shapes[*at].1;
            prop_assert_eq!(dims, own.iter().map(|&at| vec![shapes[at].0, shapes[at].1]).collect::<Vec<_>>());
            prop_assert_eq!(sums, own.iter().map(|at| expected(world, size(at), seed ^ *at as u64)).collect::<Vec<_>>());
            let want = (0..shapes.len()).map(|at| values(owner(at), size(&at), seed ^ at as u64));
            prop_assert_eq!(weights, want.collect::<Vec<_>>());
        }
    }
}

#[test]
fn shares_are_even_and_the_same_for_all() {
    let sizes = [100, 1, 7, 40, 60, 33, 33, 33];
    let shares = Shares::new(&sizes, 3);
    let loads: Vec<usize> = (0..3)
        .map(|rank| shares.of(rank).iter().map(|&i| sizes[i]).sum())
        .collect();
    assert_eq!(loads.iter().sum::<usize>(), 307);
    assert!(
        loads.iter().all(|&load| (90..=115).contains(&load)),
        "{loads:?}"
    );
}

#[test]
fn a_worker_that_is_gone_is_named() {
    let found: Vec<Result<()>> = together(3, |mut talk| {
        if talk.rank() == 1 {
            return Ok(());
        }
        // Whoever waits for a survivor that has given up learns of that one instead.
        talk.barrier()
    });
    assert!(found[1].is_ok());
    for rank in [0, 2] {
        let error = found[rank].as_ref().unwrap_err();
        assert_eq!(error.code(), Code::WorkerLost);
        assert!(error.message().contains("is gone"), "{}", error.message());
    }
    let named = |rank: usize| {
        found[rank]
            .as_ref()
            .unwrap_err()
            .message()
            .contains("worker 1")
    };
    assert!(named(0) || named(2));
}
