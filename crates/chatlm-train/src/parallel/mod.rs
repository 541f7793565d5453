//! Several processes that train one model: what they say to each other, and how the work of a step is
//! shared out.
//!
//! [`Link`] is all that a way of talking has to do (`sockets.rs`, `mpi.rs`); [`Communicator`] has the
//! collectives, built on it once, so that sums are made in the same order whatever carries them.
//! `share.rs` says whose a weight is, `team.rs` is a trainer's part in it. Where gradients lie in plain
//! memory `reduce.rs` sums them while the backward goes on; where they are tensors on a device `tensors.rs`
//! does, after it, by a carrier: through the processor's memory (`carrier.rs`) or by NCCL (`nccl`).

mod carrier;
mod communicator;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(any(test, feature = "nccl"))]
mod nccl;
mod reduce;
mod share;
mod sockets;
mod team;
mod tensors;

pub(crate) use carrier::{Chosen, carrier};
pub use communicator::{Communicator, Link};
#[cfg(feature = "mpi")]
pub use mpi::MpiLink;
pub(crate) use reduce::Reducer;
pub(crate) use share::Shares;
pub use sockets::SocketLink;
pub use team::Talk;
pub(crate) use team::Team;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod training_tests;
