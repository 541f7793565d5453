//! A trainer's part in a team of workers: its gradients summed with the others', the weights it updates
//! handed to them, its optimizer state handed to rank 0 for a checkpoint.

use std::collections::BTreeMap;
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Tensor, Var};
use chatlm_checkpoint::{Piece, to_safetensors};
use chatlm_job::{Code, Error, Result};
use chatlm_optim::{Optimizer, squared_norm};
use chatlm_t5::{Gradients, Sink, write};

use super::carrier::Chosen;
use super::tensors::TensorSums;
use super::{Communicator, Reducer, Shares};

/// Complete gradients that wait for the thread that sums them.
const WAITING: usize = 16;

/// What all parts of a program that talk to the other workers hold.
pub type Talk = Arc<Mutex<Communicator>>;

pub(crate) struct Team {
    talk: Talk,
    /// This worker's weights, in the order of its optimizer.
    own: Vec<usize>,
    sums: Sums,
    /// Why tensors do not travel by NCCL, where they could have.
    note: Option<String>,
}

/// Where this worker's gradients are summed.
enum Sums {
    /// In plain memory, while the backward goes on.
    Plain(Reducer),
    /// On a device, after it.
    Tensors(TensorSums),
}

impl Team {
    /// `plain`: gradients lie in plain memory; else `choose` says how tensors travel.
    pub(crate) fn new(
        talk: Talk,
        trained: &[(String, Var)],
        device: &Device,
        plain: bool,
        choose: impl FnOnce(&mut Communicator, &Device) -> Result<Chosen>,
    ) -> Result<Self> {
        let sizes: Vec<usize> = trained.iter().map(|(_, var)| var.elem_count()).collect();
        let (own, sums, note) = {
            let mut talk = talk.lock().unwrap_or_else(PoisonError::into_inner);
            same_kind(&mut talk, device, plain)?;
            let shares = Shares::new(&sizes, talk.world());
            let own = shares.of(talk.rank());
            if plain {
                (own, Sums::Plain(Reducer::new(shares, sizes)), None)
            } else {
                let (carrier, note) = choose(&mut talk, device)?;
                let shapes = trained.iter().map(|(_, var)| var.dims().to_vec());
                let sums = TensorSums::new(carrier, shares, device, shapes.collect());
                (own, Sums::Tensors(sums), note)
            }
        };
        Ok(Self {
            talk,
            own,
            sums,
            note,
        })
    }

    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The weights that this worker updates.
    pub(crate) fn own(&self) -> &[usize] {
        &self.own
    }

    pub(crate) fn talk(&self) -> MutexGuard<'_, Communicator> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sum(&self, values: &mut [f64]) -> Result<()> {
        self.talk().sum(values)
    }

    /// Runs the passes of a step and sums their gradients: in plain memory what a watch sees, on a thread
    /// beside the passes.
    pub(crate) fn gather<F>(
        &mut self,
        gradients: &mut Gradients<'static>,
        work: impl FnOnce(&mut Gradients<'static>, Option<Sink<'static>>) -> Result<F>,
    ) -> Result<F> {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        let talk = &mut *talk;
        let reducer = match &mut self.sums {
            Sums::Plain(reducer) => reducer,
            Sums::Tensors(sums) => {
                let found = work(gradients, None);
                // NCCL waits for ever for one who does not come.
                let failed = talk.any(found.is_err())?;
                let found = found?;
                if failed {
                    return Err(failed_elsewhere());
                }
                sums.reduce(talk, gradients)?;
                return Ok(found);
            }
        };
        if !reducer.is_ordered() {
            let (seen, order) = channel();
            let found = work(
                gradients,
                Some(Box::new(move |index, _| {
                    let _ = seen.send(index);
                })),
            )?;
            gradients.finish();
            gradients.unwatch();
            let order: Vec<usize> = order.iter().collect();
            reducer.agree_on_order(talk, &order)?;
            reducer.reduce(talk, |index| gradients.get(index))?;
            return Ok(found);
        }
        let (send, ready) = sync_channel(WAITING);
        let (free, emptied) = channel::<Vec<f32>>();
        let watch: Sink<'static> = Box::new(move |index, values: &[f32]| {
            let mut buffer = emptied.try_recv().unwrap_or_default();
            buffer.clear();
            buffer.extend_from_slice(values);
            // Where the sum has failed, its error is told below.
            let _ = send.send((index, buffer));
        });
        std::thread::scope(|scope| {
            let sums = std::thread::Builder::new()
                .name("chatlm-sums".to_owned())
                .spawn_scoped(scope, move || {
                    reducer.reduce_as_they_come(talk, &ready, &free)
                })
                .map_err(|e| Error::io(&e, "start a thread for", "sums"))?;
            let found = work(gradients, Some(watch));
            gradients.finish();
            // The thread ends with the watch.
            gradients.unwatch();
            let summed = sums
                .join()
                .unwrap_or_else(|_| Err(Error::internal("the thread that sums gradients died")));
            let found = found?;
            summed?;
            Ok(found)
        })
    }

    /// The sum of squares of all summed gradients, in plain memory added up as one worker would; and which
    /// weights have one anywhere.
    pub(crate) fn squares(&self, gradients: &Gradients<'_>) -> Result<(f64, Vec<bool>)> {
        let count = gradients.len();
        let mut numbers = vec![0.0; 2 * count];
        match &self.sums {
            Sums::Plain(reducer) => {
                for &index in &self.own {
                    numbers[index] = squared_norm(reducer.sum(index));
                }
            }
            // One number comes from the device.
            Sums::Tensors(sums) => {
                if let Some(&first) = self.own.first() {
                    numbers[first] = sums.squares()?;
                }
            }
        }
        for (index, flag) in numbers[count..].iter_mut().enumerate() {
            let there = if gradients.are_tensors() {
                gradients.tensor(index).is_some()
            } else {
                gradients.get(index).is_some()
            };
            *flag = f64::from(u8::from(there));
        }
        self.sum(&mut numbers)?;
        // What nobody has a gradient of was summed from zeros.
        let there = numbers[count..].iter().map(|&flag| flag > 0.0).collect();
        Ok((numbers[..count].iter().sum(), there))
    }

    /// Updates this worker's weights and hands them round.
    pub(crate) fn apply(
        &mut self,
        optimizer: &mut Optimizer,
        trained: &[(String, Var)],
        there: &[bool],
        (scale, rate): (f32, f64),
    ) -> Result<()> {
        for (place, &index) in self.own.iter().enumerate() {
            if !there[index] {
                continue;
            }
            let var = &trained[index].1;
            match &self.sums {
                Sums::Plain(reducer) => write(var, |weights| {
                    optimizer.update(place, weights, reducer.sum(index), scale, rate);
                })
                .map_err(Error::internal)?,
                Sums::Tensors(sums) => {
                    optimizer.update_tensor(place, var, sums.sum(index), scale, rate)?;
                }
            }
        }
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        let shares = match &mut self.sums {
            Sums::Plain(reducer) => reducer.shares(),
            Sums::Tensors(sums) => {
                let indices: Vec<usize> = (0..there.len()).filter(|&n| there[n]).collect();
                return sums.hand_round(&mut talk, trained, &indices);
            }
        };
        let rank = talk.rank();
        talk.meet(|link, other, first| {
            // The lower rank speaks first, then the other.
            for speaks in [first, !first] {
                let owner = if speaks { rank } else { other };
                for index in shares.of(owner).into_iter().filter(|&index| there[index]) {
                    write(&trained[index].1, |weights| {
                        let bytes = bytemuck::cast_slice_mut(weights);
                        if speaks {
                            link.send(other, bytes)
                        } else {
                            link.receive(other, bytes)
                        }
                    })
                    .map_err(Error::internal)??;
                }
            }
            Ok(())
        })
    }

    /// Adds the other workers' optimizer state to rank 0's; the others keep theirs.
    pub(crate) fn complete(&self, state: &mut BTreeMap<String, Piece<'_>>) -> Result<()> {
        let mut talk = self.talk();
        let own = if talk.rank() == 0 {
            Vec::new()
        } else {
            to_safetensors(state)?
        };
        for bytes in talk.gather(own)?.into_iter().skip(1) {
            let theirs: std::collections::HashMap<String, Tensor> =
                candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
                    .map_err(Error::internal)?;
            for (name, tensor) in theirs {
                state.entry(name).or_insert(Piece::Tensor(tensor));
            }
        }
        Ok(())
    }
}

/// Refuses workers whose tensors are of different kinds: their sums would be made in different ways.
fn same_kind(talk: &mut Communicator, device: &Device, plain: bool) -> Result<()> {
    let names = [
        "the processor",
        "the processor without its kernels (CHATLM_CPU=twin)",
        "an NVIDIA GPU",
        "a GPU by Metal",
    ];
    let own = match device {
        Device::Cpu => u8::from(!plain),
        Device::Cuda(_) => 2,
        Device::Metal(_) => 3,
    };
    let kinds = talk.gather_all(&[own])?;
    let name = |rank: usize| names[usize::from(kinds[rank][0]).min(names.len() - 1)];
    match (0..kinds.len()).find(|&rank| kinds[rank] != kinds[0]) {
        None => Ok(()),
        Some(other) => Err(Error::new(
            Code::ConfigInvalid,
            format!(
                "worker 0 trains on {}, worker {other} on {}",
                name(0),
                name(other)
            ),
            "all workers need the same kind of device: name it with --device",
        )
        .with("field", "workers")),
    }
}

/// What is told by workers that had no error of their own; the command line tells the one who had.
fn failed_elsewhere() -> Error {
    Error::new(
        Code::WorkerLost,
        "another worker could not finish its step",
        "see that worker's error; the same command goes on from the last checkpoint",
    )
}
