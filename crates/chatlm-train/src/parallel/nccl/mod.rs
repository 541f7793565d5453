//! Tensors from GPU to GPU by NVIDIA's NCCL.
//!
//! Compiled and, against a stand-in for the library that works on the processor's memory, tested; on GPUs
//! it has not been run. Calls are made on the thread that queued the step's work and on the stream of
//! candle's device (CUDA's stream of that thread), so they come after the backward and before the update
//! without any waiting here. That needs a communicator that blocks, as `ncclCommInitRank` makes them: one
//! that does not would call from a thread of its own.
#![expect(unsafe_code, reason = "addresses on a device are handed to NCCL")]

mod library;
#[cfg(test)]
mod stand_in;
#[cfg(test)]
pub(crate) mod tests;

use std::cell::Cell;
use std::ptr::null_mut;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, Var, bail};
use chatlm_job::{Code, Error, Result};

use super::Communicator;
use super::carrier::Carrier;
use library::{Address, Comm, Functions, ID_BYTES, Id};

/// `off`: tensors go through the processor's memory, whatever there is.
const VARIABLE: &str = "CHATLM_NCCL";

/// This worker's part in a group of GPUs.
pub(crate) struct Nccl {
    functions: Functions,
    comm: Comm,
    rank: usize,
    device: Device,
}

// SAFETY: NCCL binds a communicator to no thread; it wants one call at a time, and `&mut self` is one.
unsafe impl Send for Nccl {}

impl Drop for Nccl {
    fn drop(&mut self) {
        let _ = bind(&self.device);
        // SAFETY: of `join`, and nothing can call it after this.
        unsafe { self.functions.abort(self.comm) }
    }
}

/// Joins the GPUs of all workers by the library of this machine. Everybody gets the same answer: joined, or
/// the first one's cause why not.
#[cfg_attr(
    not(feature = "nccl"),
    expect(dead_code, reason = "tests bring their own")
)]
pub(crate) fn of_machine(
    talk: &mut Communicator,
    device: &Device,
) -> Result<std::result::Result<Nccl, String>> {
    let load = || match std::env::var(VARIABLE) {
        Ok(value) if value == "off" => Err(format!("{VARIABLE} is off")),
        _ => Functions::load(library::NAME),
    };
    start(talk, device, load)
}

/// The library may be missing, or the devices may not come together, on one machine of several: each step
/// is taken by all of them or none.
fn start(
    talk: &mut Communicator,
    device: &Device,
    load: impl FnOnce() -> std::result::Result<Functions, String>,
) -> Result<std::result::Result<Nccl, String>> {
    let loaded = load();
    if let Some(why) = first(talk, loaded.as_ref().err())? {
        return Ok(Err(why));
    }
    let functions = loaded.map_err(Error::internal)?;
    let mut id = Ok(Id([0; ID_BYTES]));
    if talk.rank() == 0 {
        id = functions.unique_id();
    }
    if let Some(why) = first(talk, id.as_ref().err())? {
        return Ok(Err(why));
    }
    let mut bytes = id.map_err(Error::internal)?.0.to_vec();
    talk.broadcast(&mut bytes)?;
    let id = Id(bytes
        .try_into()
        .map_err(|_| Error::internal("an id of another size"))?);
    let joined = bind(device)
        .map_err(|error| error.to_string())
        .and_then(|()| functions.join(id, talk.rank(), talk.world()));
    let why = first(talk, joined.as_ref().err())?;
    let nccl = joined.map(|comm| Nccl {
        functions,
        comm,
        rank: talk.rank(),
        device: device.clone(),
    });
    // Whoever has joined alone leaves by being dropped.
    Ok(match (nccl, why) {
        (Ok(nccl), None) => Ok(nccl),
        (_, why) => Err(why.unwrap_or_default()),
    })
}

/// What the first worker that has something to tell tells, for all; the worker is named.
fn first(talk: &mut Communicator, own: Option<&String>) -> Result<Option<String>> {
    let own = own.map(|text| text.as_bytes().to_vec());
    let told = talk.gather(own.unwrap_or_default())?;
    let first = told.iter().enumerate().find(|(_, text)| !text.is_empty());
    let mut bytes = first.map_or_else(Vec::new, |(rank, text)| {
        format!("worker {rank}: {}", String::from_utf8_lossy(text)).into_bytes()
    });
    talk.broadcast(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Some(text).filter(|text| !text.is_empty()))
}

impl Nccl {
    /// One call for each of these tensors, as one piece of work.
    fn all<'t>(
        &self,
        tensors: impl Iterator<Item = (usize, &'t Tensor)>,
        call: impl Fn(&Functions, (Address, usize), usize, Address) -> std::result::Result<(), String>,
    ) -> Result<()> {
        let places = tensors
            .map(|(owner, tensor)| Ok((owner, place(tensor)?)))
            .collect::<candle_core::Result<Vec<_>>>()
            .and_then(|places| bind(&self.device).map(|()| places))
            .map_err(Error::internal)?;
        let stream = stream(&self.device);
        self.functions
            .group(|| {
                let mut places = places.into_iter();
                places.try_for_each(|(owner, place)| call(&self.functions, place, owner, stream))
            })
            .map_err(|what| {
                Error::new(
                    Code::DeviceUnavailable,
                    format!("NCCL failed between the workers' GPUs: {what}"),
                    format!(
                        "NCCL_DEBUG=INFO says more; {VARIABLE}=off moves gradients through the \
                         processor's memory; the same command goes on from the last checkpoint"
                    ),
                )
            })
    }
}

impl Carrier for Nccl {
    fn bucket(&self) -> usize {
        // 1 GB: nothing is copied for a bucket, so it only bounds the calls of a group.
        1 << 28
    }

    fn reduce(
        &mut self,
        _talk: &mut Communicator,
        tensors: &[(usize, Tensor)],
    ) -> Result<Vec<Tensor>> {
        let all = tensors.iter().map(|(owner, tensor)| (*owner, tensor));
        self.all(all, |functions, place, owner, stream| {
            // SAFETY: the communicator is this one's. All that is done with the tensors is queued on the
            // same stream, and so is giving their memory back. All workers have the same list.
            unsafe { functions.reduce(self.comm, place, owner, stream) }
        })?;
        let own = tensors.iter().filter(|(owner, _)| *owner == self.rank);
        Ok(own.map(|(_, tensor)| tensor.clone()).collect())
    }

    fn hand_round(&mut self, _talk: &mut Communicator, weights: &[(usize, &Var)]) -> Result<()> {
        let all = weights.iter().map(|(owner, var)| (*owner, var.as_tensor()));
        self.all(all, |functions, place, owner, stream| {
            // SAFETY: as above.
            unsafe { functions.broadcast(self.comm, place, owner, stream) }
        })
    }
}

/// Where a tensor's values are and how many.
fn place(tensor: &Tensor) -> candle_core::Result<(Address, usize)> {
    let found = Place(Cell::new((null_mut(), 0)));
    tensor.inplace_op1(&found)?;
    Ok(found.0.get())
}

struct Place(Cell<(Address, usize)>);

impl Place {
    fn of(&self, layout: &Layout, first: Address) -> candle_core::Result<()> {
        let Some((from, to)) = layout.contiguous_offsets() else {
            bail!("NCCL wants values side by side, not {layout:?}")
        };
        let at = first.cast::<f32>().wrapping_add(from);
        self.0.set((at.cast(), to - from));
        Ok(())
    }
}

impl InplaceOp1 for Place {
    fn name(&self) -> &'static str {
        "nccl-place"
    }

    /// For the stand-in of the tests.
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = storage else {
            bail!("NCCL is given f32 here")
        };
        self.of(layout, values.as_mut_ptr().cast())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &mut candle_core::CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<()> {
        use candle_core::cuda_backend::cudarc::driver::DevicePtrMut;
        let stream = storage.device.cuda_stream();
        let values = storage.as_cuda_slice_mut::<f32>()?;
        let (first, _) = values.device_ptr_mut(&stream);
        self.of(layout, first as Address)
    }
}

/// Makes the device the current one of this thread, which is whose NCCL takes.
#[cfg_attr(
    not(feature = "cuda"),
    expect(
        clippy::unnecessary_wraps,
        reason = "the stand-in's memory is there in any case"
    )
)]
fn bind(device: &Device) -> candle_core::Result<()> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        let stream = device.cuda_stream();
        return stream
            .context()
            .bind_to_thread()
            .map_err(candle_core::Error::wrap);
    }
    let _ = device;
    Ok(())
}

/// The stream that candle queues the device's work on.
fn stream(device: &Device) -> Address {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return device.cuda_stream().cu_stream().cast();
    }
    let _ = device;
    null_mut()
}
