#![expect(clippy::unwrap_used, reason = "tests")]

use candle_core::Device;

use super::super::tests::together;
use super::stand_in::{LIVING, WORK, functions};
use super::*;
use crate::parallel::Chosen;

/// Workers whose tensors travel by the stand-in.
pub(crate) fn by_stand_in(talk: &mut Communicator, device: &Device) -> Result<Chosen> {
    let nccl = start(talk, device, || Ok(functions(true)))?.map_err(Error::internal)?;
    Ok((Box::new(nccl), None))
}

/// Groups that this thread has handed to the stand-in, and calls in them.
pub(crate) fn work() -> (usize, usize) {
    WORK.get()
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

/// A list of weights with their owners; views too, and one that is a part of another's memory.
#[test]
fn owners_have_the_sums_and_everybody_their_values() {
    let found = together(3, |mut talk| {
        let rank = talk.rank();
        let (mut nccl, _) = by_stand_in(&mut talk, &Device::Cpu).unwrap();
        let n = rank as f32 + 1.0;
        let whole = tensor(&[9.0, n, 2.0 * n, 9.0]);
        let list = [
            (1, tensor(&[n])),
            (0, whole.narrow(0, 1, 2).unwrap()),
            (1, tensor(&[10.0 * n, 0.5])),
        ];
        let sums = nccl.reduce(&mut talk, &list).unwrap();
        let sums: Vec<Vec<f32>> = sums.iter().map(|sum| sum.to_vec1().unwrap()).collect();
        let weights = [(2, n), (0, -n)].map(|(owner, n)| {
            let var = Var::from_tensor(&tensor(&[n, n])).unwrap();
            (owner, var)
        });
        let list: Vec<(usize, &Var)> = weights.iter().map(|(n, var)| (*n, var)).collect();
        nccl.hand_round(&mut talk, &list).unwrap();
        let weights = weights.map(|(_, var)| var.to_vec1::<f32>().unwrap()[1]);
        (sums, whole.to_vec1::<f32>().unwrap(), weights, work())
    });
    assert_eq!(found[0].0, [[6.0, 12.0]]);
    // What lies beside is left alone.
    assert_eq!(found[0].1, [9.0, 6.0, 12.0, 9.0]);
    assert_eq!(found[1].0, [vec![6.0], vec![60.0, 1.5]]);
    assert!(found[2].0.is_empty());
    for (_, _, weights, work) in found {
        assert_eq!(weights.map(|weight| weight as i32), [3, -1]);
        // A list is one piece of work, not one for each tensor.
        assert_eq!(work, (2, 5));
    }
}

#[test]
fn where_one_has_no_library_nobody_uses_nccl_and_all_are_told_whose_it_is() {
    let found = together(3, |mut talk| {
        let rank = talk.rank();
        let load = || match rank {
            1 => Functions::load("libnccl-that-is-not.so.2"),
            _ => Ok(functions(true)),
        };
        let started = start(&mut talk, &Device::Cpu, load).unwrap();
        // Whatever comes next, all of them are still at the same place.
        talk.barrier().unwrap();
        started.err().unwrap()
    });
    for why in found {
        assert!(
            why.starts_with("worker 1: libnccl-that-is-not.so.2: "),
            "{why}"
        );
    }
}

#[test]
fn a_library_that_is_no_nccl_is_named_with_what_it_lacks() {
    let why = Functions::load("libc.so.6").err().unwrap();
    assert!(why.contains("ncclGetUniqueId"), "{why}");
}

#[test]
fn where_one_gpu_does_not_join_the_others_leave_again() {
    let found = together(2, |mut talk| {
        let joins = talk.rank() == 0;
        let started = start(&mut talk, &Device::Cpu, || Ok(functions(joins))).unwrap();
        assert_eq!(LIVING.get(), 0);
        started.err().unwrap()
    });
    for why in found {
        assert_eq!(why, "worker 1: ncclCommInitRank: invalid usage");
    }
}

#[test]
fn workers_that_ask_for_different_things_are_told_so() {
    let found = together(2, |mut talk| {
        let rank = talk.rank();
        let (mut nccl, _) = by_stand_in(&mut talk, &Device::Cpu).unwrap();
        let list = [(0, tensor(&vec![1.0; rank + 1]))];
        nccl.reduce(&mut talk, &list).err().unwrap()
    });
    for error in found {
        assert_eq!(error.code(), Code::DeviceUnavailable);
        assert!(
            error.message().contains("ncclGroupEnd: invalid usage"),
            "{error}"
        );
        assert!(error.help().contains("CHATLM_NCCL=off"), "{error}");
    }
}

/// The real library, where `CHATLM_TEST_NCCL` says where it is: without a GPU it hands out an id and says
/// that no device joins, with the cause.
#[test]
fn the_real_library_is_called_as_it_wants_to_be() {
    let Ok(path) = std::env::var("CHATLM_TEST_NCCL") else {
        return;
    };
    let id = Functions::load(&path).unwrap().unique_id().unwrap();
    assert_ne!(id.0, [0; ID_BYTES]);
    let found = together(2, |mut talk| {
        let started = start(&mut talk, &Device::Cpu, || Functions::load(&path)).unwrap();
        started.err().unwrap()
    });
    for why in found {
        assert!(why.starts_with("worker 0: ncclCommInitRank: "), "{why}");
    }
}
