//! A trainer's part in a team of workers: its gradients summed with the others', the weights it updates
//! handed to them, its optimizer state handed to rank 0 for a checkpoint.

use std::collections::BTreeMap;
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Tensor, Var};
use chatlm_checkpoint::{Piece, to_safetensors};
use chatlm_job::{Error, Result};
use chatlm_optim::{Optimizer, squared_norm};
use chatlm_t5::{Gradients, Sink, write};

use super::{Communicator, Reducer, Shares};

/// Complete gradients that wait for the thread that sums them.
const WAITING: usize = 16;

/// What all parts of a program that talk to the other workers hold.
pub type Talk = Arc<Mutex<Communicator>>;

pub(crate) struct Team {
    talk: Talk,
    reducer: Reducer,
    /// This worker's weights, in the order of its optimizer.
    own: Vec<usize>,
}

impl Team {
    pub(crate) fn new(talk: Talk, sizes: Vec<usize>) -> Self {
        let (rank, world) = {
            let talk = talk.lock().unwrap_or_else(PoisonError::into_inner);
            (talk.rank(), talk.world())
        };
        let shares = Shares::new(&sizes, world);
        Self {
            own: shares.of(rank),
            reducer: Reducer::new(shares, sizes),
            talk,
        }
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

    /// Runs the passes of a step with a watch to give to the gradients, and sums what it sees on a thread
    /// beside them.
    pub(crate) fn gather<F>(
        &mut self,
        gradients: &mut Gradients<'static>,
        work: impl FnOnce(&mut Gradients<'static>, Option<Sink<'static>>) -> Result<F>,
    ) -> Result<F> {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        let (talk, reducer) = (&mut *talk, &mut self.reducer);
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

    /// The sum of squares of all summed gradients, added up as one worker would; and which weights have
    /// one anywhere.
    pub(crate) fn squares(&self, gradients: &Gradients<'_>) -> Result<(f64, Vec<bool>)> {
        let count = gradients.len();
        let mut numbers = vec![0.0; 2 * count];
        for &index in &self.own {
            numbers[index] = squared_norm(self.reducer.sum(index));
        }
        for (index, flag) in numbers[count..].iter_mut().enumerate() {
            *flag = f64::from(u8::from(gradients.get(index).is_some()));
        }
        self.sum(&mut numbers)?;
        let there: Vec<bool> = numbers[count..].iter().map(|&flag| flag > 0.0).collect();
        let squares = numbers.iter().zip(&there);
        Ok((
            squares.filter(|(_, there)| **there).map(|(n, _)| n).sum(),
            there,
        ))
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
            if there[index] {
                write(&trained[index].1, |weights| {
                    optimizer.update(place, weights, self.reducer.sum(index), scale, rate);
                })
                .map_err(Error::internal)?;
            }
        }
        let shares = self.reducer.shares();
        let mut talk = self.talk();
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
