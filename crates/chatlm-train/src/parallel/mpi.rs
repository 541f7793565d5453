//! Workers that `mpirun` starts, on one machine or many, talking through Open MPI.
//!
//! A worker that dies is noticed by `mpirun`, which ends the others: MPI has no way to go on.

use chatlm_job::{Error, Result};
use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::{Communicator as _, SimpleCommunicator};
use mpi::traits::{Destination as _, Source as _};

use super::Link;

/// MPI counts in `i32`; a longer message goes in parts.
const MOST: usize = 1 << 30;

/// MPI's world. It is finalized at a good end alone: that waits for the others, who may be waiting for this one.
/// A process that ends without tells `mpirun` to end them.
pub struct MpiLink {
    rank: usize,
    size: usize,
    /// Workers on this machine.
    neighbours: usize,
    universe: Option<Universe>,
}

// The one thread that talks at a time holds the communicator's lock, as `Threading::Serialized` asks.
const THREADING: Threading = Threading::Serialized;

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

impl MpiLink {
    /// The world that `mpirun` has made; none where this process was started by itself.
    pub fn of_mpirun() -> Result<Option<Self>> {
        if number("OMPI_COMM_WORLD_SIZE").is_none_or(|size| size < 2) {
            return Ok(None);
        }
        let (universe, given) = mpi::initialize_with_threading(THREADING)
            .ok_or_else(|| Error::internal("MPI was initialized before"))?;
        if given < THREADING {
            return Err(Error::internal("this MPI was built without threads"));
        }
        Ok(Some(Self {
            rank: universe.world().rank() as usize,
            size: universe.world().size() as usize,
            neighbours: number("OMPI_COMM_WORLD_LOCAL_SIZE").unwrap_or(1),
            universe: Some(universe),
        }))
    }

    pub fn neighbours(&self) -> usize {
        self.neighbours
    }
}

/// Not kept: it is bound to no thread, but its type does not say so.
fn world() -> SimpleCommunicator {
    SimpleCommunicator::world()
}

impl Link for MpiLink {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.size
    }

    fn send(&mut self, to: usize, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(MOST) {
            world().process_at_rank(to as i32).send(part);
        }
        Ok(())
    }

    fn receive(&mut self, from: usize, bytes: &mut [u8]) -> Result<()> {
        for part in bytes.chunks_mut(MOST) {
            world().process_at_rank(from as i32).receive_into(part);
        }
        Ok(())
    }

    fn end(&mut self) {
        drop(self.universe.take());
    }
}

impl Drop for MpiLink {
    fn drop(&mut self) {
        std::mem::forget(self.universe.take());
    }
}
