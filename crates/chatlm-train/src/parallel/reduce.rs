//! Gradients of all workers summed for their owners, in buckets, while the backward goes on.
//!
//! The order of buckets is that in which the first step's gradients were complete, as rank 0 saw it:
//! so buckets fill as early as they can, and everybody sums the same one at the same time. A weight
//! without a gradient here (no rows at an epoch's end) counts as zeros.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender};

use chatlm_job::Result;

use super::Shares;
use super::communicator::Communicator;

/// Values of a bucket: 4 MB.
const BUCKET: usize = 1 << 20;

/// A gradient that is complete on this worker.
pub(crate) type Ready = (usize, Vec<f32>);

/// The gradients of a step on their way, and the summed ones of this worker's weights.
pub(crate) struct Reducer {
    shares: Shares,
    sizes: Vec<usize>,
    /// The order of weights, once it is known.
    order: Vec<usize>,
    /// Of this worker's weights, by index.
    sums: BTreeMap<usize, Vec<f32>>,
    /// What each of the others has sent for this worker's weights of a bucket.
    theirs: Vec<Vec<f32>>,
}

impl Reducer {
    pub(crate) fn new(shares: Shares, sizes: Vec<usize>) -> Self {
        Self {
            shares,
            sizes,
            order: Vec::new(),
            sums: BTreeMap::new(),
            theirs: Vec::new(),
        }
    }

    pub(crate) fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Whether the order is known, so that sums can begin before the backward's end.
    pub(crate) fn is_ordered(&self) -> bool {
        self.order.len() == self.sizes.len()
    }

    /// Takes rank 0's order: `seen`, then whatever it has not seen.
    pub(crate) fn agree_on_order(&mut self, talk: &mut Communicator, seen: &[usize]) -> Result<()> {
        let mut order: Vec<u64> = seen.iter().map(|&index| index as u64).collect();
        order.extend((0..self.sizes.len() as u64).filter(|&n| !seen.contains(&(n as usize))));
        let mut bytes = bytemuck::cast_slice(&order).to_vec();
        talk.broadcast(&mut bytes)?;
        self.order = bytes
            .chunks_exact(8)
            .map(|index| index.try_into().map_or(0, u64::from_ne_bytes) as usize)
            .collect();
        Ok(())
    }

    /// The sum of a weight of this worker.
    pub(crate) fn sum(&self, index: usize) -> &[f32] {
        &self.sums[&index]
    }

    /// Sums what `gradient` answers for each weight.
    pub(crate) fn reduce<'g>(
        &mut self,
        talk: &mut Communicator,
        gradient: impl Fn(usize) -> Option<&'g [f32]>,
    ) -> Result<()> {
        for bucket in self.buckets() {
            let filled = bucket
                .iter()
                .map(|&index| self.fill(gradient(index), index));
            let filled = filled.collect();
            self.flush(talk, &bucket, filled)?;
        }
        Ok(())
    }

    /// Sums gradients as they come, to the last; what never comes counts as zeros. Their buffers go back
    /// through `free`.
    pub(crate) fn reduce_as_they_come(
        &mut self,
        talk: &mut Communicator,
        ready: &Receiver<Ready>,
        free: &Sender<Vec<f32>>,
    ) -> Result<()> {
        let mut waiting: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        for bucket in self.buckets() {
            while !bucket.iter().all(|index| waiting.contains_key(index)) {
                match ready.recv() {
                    Ok((index, values)) => {
                        waiting.insert(index, values);
                    }
                    Err(_) => break,
                }
            }
            let filled: Vec<Vec<f32>> = bucket
                .iter()
                .map(|&index| {
                    waiting
                        .remove(&index)
                        .unwrap_or_else(|| self.fill(None, index))
                })
                .collect();
            for buffer in self.flush(talk, &bucket, filled)? {
                // Nobody takes them after the last gradient.
                let _ = free.send(buffer);
            }
        }
        Ok(())
    }

    fn fill(&self, gradient: Option<&[f32]>, index: usize) -> Vec<f32> {
        gradient.map_or_else(|| vec![0.0; self.sizes[index]], <[f32]>::to_vec)
    }

    fn buckets(&self) -> Vec<Vec<usize>> {
        buckets(&self.order, |index| self.sizes[index], BUCKET)
    }

    /// Hands each owner its weights' gradients and sums this worker's; answers the emptied buffers. They
    /// travel from where they are, and into memory that stays: copies would cost the step's own thread.
    fn flush(
        &mut self,
        talk: &mut Communicator,
        bucket: &[usize],
        filled: Vec<Vec<f32>>,
    ) -> Result<Vec<Vec<f32>>> {
        let (rank, world) = (talk.rank(), talk.world());
        let (shares, theirs, sums) = (&self.shares, &mut self.theirs, &mut self.sums);
        let of = |owner: usize| {
            let places = bucket.iter().enumerate();
            places.filter(move |&(_, &index)| shares.owner(index) == owner)
        };
        let own: usize = of(rank).map(|(place, _)| filled[place].len()).sum();
        theirs.resize_with(world, Vec::new);
        talk.meet(|link, other, first| {
            theirs[other].resize(own, 0.0);
            // The lower rank speaks first, then the other.
            for speaks in [first, !first] {
                if !speaks {
                    // A message at a time, as they are sent: MPI keeps them apart.
                    let mut rest = &mut theirs[other][..];
                    for (place, _) in of(rank) {
                        let (part, more) = rest.split_at_mut(filled[place].len());
                        link.receive(other, bytemuck::cast_slice_mut(part))?;
                        rest = more;
                    }
                    continue;
                }
                for (place, _) in of(other) {
                    link.send(other, bytemuck::cast_slice(&filled[place]))?;
                }
            }
            Ok(())
        })?;
        let mut from = 0;
        for (place, &index) in of(rank) {
            let mine = &filled[place];
            let part = from..from + mine.len();
            let sum = sums.entry(index).or_default();
            sum.clear();
            // In the order of ranks, whoever sums.
            for (worker, sent) in theirs.iter().enumerate() {
                let values = if worker == rank {
                    &mine[..]
                } else {
                    &sent[part.clone()]
                };
                if worker == 0 {
                    sum.extend_from_slice(values);
                } else {
                    sum.iter_mut()
                        .zip(values)
                        .for_each(|(sum, value)| *sum += value);
                }
            }
            from = part.end;
        }
        Ok(filled)
    }
}

/// Cuts a list of weights where a bucket has `full` values.
pub(super) fn buckets(
    indices: &[usize],
    size: impl Fn(usize) -> usize,
    full: usize,
) -> Vec<Vec<usize>> {
    let mut buckets = Vec::new();
    let (mut bucket, mut held) = (Vec::new(), 0);
    for &index in indices {
        bucket.push(index);
        held += size(index);
        if held >= full {
            buckets.push(std::mem::take(&mut bucket));
            held = 0;
        }
    }
    if !bucket.is_empty() {
        buckets.push(bucket);
    }
    buckets
}
