//! How gradients and weights that are tensors on a device come from one worker to another: through the
//! processor's memory, over the links that there are in any case, or by NCCL (`nccl`).

use candle_core::{Device, Tensor, Var};
use chatlm_job::{Error, Result};

use super::Communicator;

/// Moves a bucket of tensors of f32. Every worker gives the same shapes with the same owners in the same
/// order; a bucket is never empty.
pub(crate) trait Carrier: Send {
    /// Values of a bucket: what travels in one go.
    fn bucket(&self) -> usize;

    /// Sums everybody's tensors for their owners: the sums of those that this worker owns, in their
    /// order. The tensors may be written to.
    fn reduce(
        &mut self,
        talk: &mut Communicator,
        tensors: &[(usize, Tensor)],
    ) -> Result<Vec<Tensor>>;

    /// Gives everybody the values that each owner has.
    fn hand_round(&mut self, talk: &mut Communicator, weights: &[(usize, &Var)]) -> Result<()>;
}

/// A way, and why it is not NCCL where it could have been.
pub(crate) type Chosen = (Box<dyn Carrier>, Option<String>);

/// The best way between the devices of these workers.
#[cfg_attr(
    not(feature = "nccl"),
    expect(clippy::unnecessary_wraps, reason = "NCCL is agreed on by talking")
)]
pub(crate) fn carrier(talk: &mut Communicator, device: &Device) -> Result<Chosen> {
    #[cfg(feature = "nccl")]
    if device.is_cuda() {
        return Ok(match super::nccl::of_machine(talk, device)? {
            Ok(nccl) => (Box::new(nccl), None),
            Err(why) => (Box::new(ThroughHost::new(talk, device)), Some(why)),
        });
    }
    Ok((Box::new(ThroughHost::new(talk, device)), None))
}

/// Downloads, sums in the order of ranks, uploads: works on any device.
pub(crate) struct ThroughHost {
    rank: usize,
    world: usize,
    device: Device,
}

impl ThroughHost {
    pub(crate) fn new(talk: &Communicator, device: &Device) -> Self {
        Self {
            rank: talk.rank(),
            world: talk.world(),
            device: device.clone(),
        }
    }

    /// A bucket's values side by side, an owner's behind another's, and where each owner's are.
    fn pack(&self, tensors: &[(usize, &Tensor)]) -> Result<(Vec<f32>, Parts)> {
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&place| tensors[place].0);
        let flat = order
            .iter()
            .map(|&place| tensors[place].1.flatten_all())
            .collect::<candle_core::Result<Vec<_>>>();
        // Put together on the device: one copy comes down.
        let values = flat
            .and_then(|flat| Tensor::cat(&flat, 0)?.to_vec1())
            .map_err(Error::internal)?;
        let mut parts = Vec::new();
        let mut from = 0;
        for rank in 0..self.world {
            let own = tensors.iter().filter(|(owner, _)| *owner == rank);
            let to = from + own.map(|(_, tensor)| tensor.elem_count()).sum::<usize>();
            parts.push(from..to);
            from = to;
        }
        Ok((values, parts))
    }

    /// The tensors of one owner from its values.
    fn unpack<'t>(
        &self,
        values: &[f32],
        tensors: impl Iterator<Item = &'t Tensor>,
    ) -> candle_core::Result<Vec<Tensor>> {
        // A device has no memory of no bytes.
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let flat = Tensor::from_slice(values, values.len(), &self.device)?;
        let mut from = 0;
        tensors
            .map(|tensor| {
                let count = tensor.elem_count();
                from += count;
                flat.narrow(0, from - count, count)?.reshape(tensor.dims())
            })
            .collect()
    }
}

/// Where each owner's values are.
type Parts = Vec<std::ops::Range<usize>>;

/// The tensors of an owner.
fn of<'t>(tensors: &'t [(usize, &'t Tensor)], rank: usize) -> impl Iterator<Item = &'t Tensor> {
    let own = tensors.iter().filter(move |(owner, _)| *owner == rank);
    own.map(|(_, tensor)| *tensor)
}

impl Carrier for ThroughHost {
    fn bucket(&self) -> usize {
        // 16 MB.
        1 << 22
    }

    fn reduce(
        &mut self,
        talk: &mut Communicator,
        tensors: &[(usize, Tensor)],
    ) -> Result<Vec<Tensor>> {
        let tensors: Vec<(usize, &Tensor)> = tensors.iter().map(|(n, t)| (*n, t)).collect();
        let (mut values, parts) = self.pack(&tensors)?;
        talk.reduce_scatter(&mut values, &parts)?;
        let own = &values[parts[self.rank].clone()];
        self.unpack(own, of(&tensors, self.rank))
            .map_err(Error::internal)
    }

    fn hand_round(&mut self, talk: &mut Communicator, weights: &[(usize, &Var)]) -> Result<()> {
        let tensors: Vec<(usize, &Tensor)> =
            weights.iter().map(|(n, v)| (*n, v.as_tensor())).collect();
        let (mut values, parts) = self.pack(&tensors)?;
        talk.all_gather(&mut values, &parts)?;
        for (rank, part) in parts.into_iter().enumerate() {
            if rank == self.rank {
                continue;
            }
            let theirs = weights.iter().filter(|(owner, _)| *owner == rank);
            self.unpack(&values[part], of(&tensors, rank))
                .and_then(|found| {
                    let mut pairs = theirs.zip(found);
                    pairs.try_for_each(|((_, var), tensor)| var.set(&tensor))
                })
                .map_err(Error::internal)?;
        }
        Ok(())
    }
}
