//! A run's place among the workers that train it together: who it is, whom it talks to, what they
//! decide with one voice.
//!
//! Rank 0 leads: it alone evaluates, writes metrics, samples and checkpoints. Every worker goes through
//! the same calls here in the same order; how gradients are summed is `chatlm-train`'s business.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chatlm_job::{Cancel, Code, Error, Result};
use chatlm_train::TrainConfig;
use chatlm_train::parallel::{Communicator, SocketLink, Talk};
use serde_json::Value;

use crate::machine::set_threads;

/// Which of several workers on this machine a process is.
#[derive(Debug, Clone)]
pub struct WorkerPlace {
    pub rank: usize,
    /// Where the workers meet: a folder of their own, made by whoever starts them.
    pub folder: PathBuf,
}

/// The workers of a run, seen by one of them; alone it decides by itself.
pub(crate) struct Crew {
    talk: Option<Talk>,
    rank: usize,
    world: usize,
}

impl Crew {
    /// Meets the others, and takes a share of the machine's threads.
    pub(crate) fn open(
        config: &TrainConfig,
        place: Option<&WorkerPlace>,
        cancel: &Cancel,
    ) -> Result<Self> {
        #[cfg(feature = "mpi")]
        if let Some(link) = chatlm_train::parallel::MpiLink::of_mpirun()? {
            use chatlm_train::parallel::Link;
            if config.workers > 1 && config.workers != link.world() {
                let what = format!(
                    "workers is {} and mpirun started {}",
                    config.workers,
                    link.world()
                );
                let help = "leave workers out where mpirun starts them";
                return Err(Error::new(Code::ConfigInvalid, what, help).with("field", "workers"));
            }
            set_threads(config.threads.unwrap_or_else(|| share(link.neighbours())))?;
            return Ok(Self::of(Communicator::new(link)));
        }
        #[cfg(not(feature = "mpi"))]
        if place.is_none() && std::env::var("OMPI_COMM_WORLD_SIZE").is_ok_and(|size| size != "1") {
            return Err(Error::new(
                Code::ConfigInvalid,
                "mpirun started this, and this build knows no MPI",
                "build it with `npm run build:mpi`, or leave mpirun out and use --workers",
            )
            .with("field", "workers"));
        }
        let Some(place) = place else {
            if config.workers > 1 {
                return Err(Error::new(
                    Code::ConfigInvalid,
                    format!("{} workers, and this is one process", config.workers),
                    "train() and the command line start workers; set workers to 1 here",
                )
                .with("field", "workers"));
            }
            if let Some(threads) = config.threads {
                set_threads(threads)?;
            }
            return Ok(Self {
                talk: None,
                rank: 0,
                world: 1,
            });
        };
        let world = config.workers;
        set_threads(
            config
                .threads
                .map_or_else(|| share(world), |all| (all / world).max(1)),
        )?;
        let link = SocketLink::connect(&place.folder, place.rank, world, cancel)?;
        Ok(Self::of(Communicator::new(link)))
    }

    fn of(talk: Communicator) -> Self {
        let (rank, world) = (talk.rank(), talk.world());
        Self {
            talk: (world > 1).then(|| Arc::new(Mutex::new(talk))),
            rank,
            world,
        }
    }

    pub(crate) fn talk(&self) -> Option<Talk> {
        self.talk.clone()
    }

    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    pub(crate) fn world(&self) -> usize {
        self.world
    }

    pub(crate) fn leads(&self) -> bool {
        self.rank == 0
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.world == 1
    }

    fn with<R>(&self, alone: R, ask: impl FnOnce(&mut Communicator) -> Result<R>) -> Result<R> {
        match &self.talk {
            Some(talk) => ask(&mut talk.lock().unwrap_or_else(PoisonError::into_inner)),
            None => Ok(alone),
        }
    }

    /// All part: there is nothing more to say.
    pub(crate) fn end(&self) {
        if let Some(talk) = &self.talk {
            talk.lock().unwrap_or_else(PoisonError::into_inner).end();
        }
    }

    /// Whether any of them says yes.
    pub(crate) fn any(&self, flag: bool) -> Result<bool> {
        self.with(flag, |talk| talk.any(flag))
    }

    pub(crate) fn barrier(&self) -> Result<()> {
        self.with((), Communicator::barrier)
    }

    /// Whether all have the same number.
    pub(crate) fn same(&self, number: u64) -> Result<bool> {
        let leaders = self.told_by_leader(number.to_ne_bytes().to_vec())?;
        Ok(!self.any(leaders != number.to_ne_bytes())?)
    }

    /// The leader's bytes, for all.
    pub(crate) fn told_by_leader(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        if self.is_alone() {
            return Ok(bytes);
        }
        self.with(Vec::new(), |talk| {
            talk.broadcast(&mut bytes)?;
            Ok(bytes)
        })
    }
}

/// This process's place among the workers of its machine, and how many they are; known before they meet.
pub(crate) fn on_this_machine(config: &Value, place: Option<&WorkerPlace>) -> (usize, usize) {
    #[cfg(feature = "mpi")]
    {
        let number = |name: &str| -> Option<usize> { std::env::var(name).ok()?.parse().ok() };
        let (rank, size) = ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE");
        if let (Some(rank), Some(size)) = (number(rank), number(size)) {
            return (rank, size);
        }
    }
    place.map_or((0, 1), |place| {
        let workers = config["workers"].as_u64().unwrap_or(1);
        (place.rank, workers as usize)
    })
}

/// Threads of each of so many workers on this machine.
fn share(workers: usize) -> usize {
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (all / workers.max(1)).max(1)
}
