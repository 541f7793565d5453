//! Gradients that are tensors on a device, summed for their owners after the backward, and the owners'
//! weights handed round: what `reduce.rs` is to plain memory.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use chatlm_job::{Error, Result};
use chatlm_optim::squared_norm_of;
use chatlm_t5::Gradients;

use super::carrier::Carrier;
use super::reduce::buckets;
use super::{Communicator, Shares};

/// The summed gradients of this worker's weights, and how they come here.
pub(crate) struct TensorSums {
    carrier: Box<dyn Carrier>,
    shares: Shares,
    device: Device,
    shapes: Vec<Vec<usize>>,
    /// Of this worker's weights, by index.
    sums: BTreeMap<usize, Tensor>,
}

impl TensorSums {
    pub(crate) fn new(
        carrier: Box<dyn Carrier>,
        shares: Shares,
        device: &Device,
        shapes: Vec<Vec<usize>>,
    ) -> Self {
        Self {
            carrier,
            shares,
            device: device.clone(),
            shapes,
            sums: BTreeMap::new(),
        }
    }

    /// Sums all gradients; a weight without one here (no rows at an epoch's end) counts as zeros.
    pub(crate) fn reduce(
        &mut self,
        talk: &mut Communicator,
        gradients: &Gradients<'_>,
    ) -> Result<()> {
        let all: Vec<usize> = (0..self.shapes.len()).collect();
        for bucket in self.buckets(&all) {
            let tensors = bucket
                .iter()
                .map(|&index| {
                    let zeros =
                        || Tensor::zeros(self.shapes[index].as_slice(), DType::F32, &self.device);
                    let tensor = gradients
                        .tensor(index)
                        .map_or_else(zeros, |t| Ok(t.clone()))?;
                    Ok((self.shares.owner(index), tensor))
                })
                .collect::<candle_core::Result<Vec<_>>>()
                .map_err(Error::internal)?;
            let summed = self.carrier.reduce(talk, &tensors)?;
            let rank = talk.rank();
            let own = bucket.iter().filter(|&&n| self.shares.owner(n) == rank);
            self.sums.extend(own.copied().zip(summed));
        }
        Ok(())
    }

    /// The sum of a weight of this worker.
    pub(crate) fn sum(&self, index: usize) -> &Tensor {
        &self.sums[&index]
    }

    /// The sum of squares of all this worker has summed.
    pub(crate) fn squares(&self) -> Result<f64> {
        squared_norm_of(self.sums.values()).map_err(Error::internal)
    }

    /// Gives everybody the weights of these indices as their owners have them.
    pub(crate) fn hand_round(
        &mut self,
        talk: &mut Communicator,
        trained: &[(String, Var)],
        indices: &[usize],
    ) -> Result<()> {
        self.sums.clear();
        for bucket in self.buckets(indices) {
            let of = |&index: &usize| (self.shares.owner(index), &trained[index].1);
            let weights: Vec<(usize, &Var)> = bucket.iter().map(of).collect();
            self.carrier.hand_round(talk, &weights)?;
        }
        Ok(())
    }

    fn buckets(&self, indices: &[usize]) -> Vec<Vec<usize>> {
        let size = |index: usize| self.shapes[index].iter().product();
        buckets(indices, size, self.carrier.bucket())
    }
}
