//! Collectives over links between all pairs of workers. Every worker makes the same calls in the same
//! order; sums are made in the order of ranks, so they depend on nothing but the world's size.

use chatlm_job::{Error, Result};

/// Bytes from one worker to another, in order; a `receive` takes just what one `send` has sent, as MPI's
/// messages want it. A worker that is gone is an error that names it.
pub trait Link: Send {
    fn rank(&self) -> usize;
    fn world(&self) -> usize;
    fn send(&mut self, to: usize, bytes: &[u8]) -> Result<()>;
    fn receive(&mut self, from: usize, bytes: &mut [u8]) -> Result<()>;
    /// Called where all workers have come to a good end together; dropped without it, a link is one that
    /// the others have lost.
    fn end(&mut self) {}
}

/// One worker's view of all of them.
pub struct Communicator {
    link: Box<dyn Link>,
}

impl Communicator {
    pub fn new(link: impl Link + 'static) -> Self {
        Self {
            link: Box::new(link),
        }
    }

    pub fn rank(&self) -> usize {
        self.link.rank()
    }

    pub fn world(&self) -> usize {
        self.link.world()
    }

    /// Calls `talk` once for every other worker, so that both sides of a pair come to each other at the
    /// same time: in round `r` rank `a` meets `(r − a) mod world`. The lower rank speaks first (`true`).
    pub(crate) fn meet(
        &mut self,
        mut talk: impl FnMut(&mut dyn Link, usize, bool) -> Result<()>,
    ) -> Result<()> {
        let (rank, world) = (self.rank(), self.world());
        for round in 0..world {
            let other = (round + world - rank) % world;
            if other != rank {
                talk(self.link.as_mut(), other, rank < other)?;
            }
        }
        Ok(())
    }

    /// Everybody's bytes by rank; all of the same length.
    pub(crate) fn gather_all(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut all = vec![vec![0; own.len()]; self.world()];
        all[self.rank()].copy_from_slice(own);
        self.meet(|link, other, first| {
            if first {
                link.send(other, own)?;
            }
            link.receive(other, &mut all[other])?;
            if !first {
                link.send(other, own)?;
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Sums of a few numbers; everybody has the same.
    pub fn sum(&mut self, values: &mut [f64]) -> Result<()> {
        let all = self.gather_all(bytemuck::cast_slice(values))?;
        values.fill(0.0);
        for bytes in all {
            for (sum, value) in values.iter_mut().zip(bytes.chunks_exact(8)) {
                // Eight bytes each.
                *sum += value.try_into().map_or(f64::NAN, f64::from_ne_bytes);
            }
        }
        Ok(())
    }

    /// All workers part in peace. Nothing may be said afterwards.
    pub fn end(&mut self) {
        self.link.end();
    }

    /// Whether any worker says yes.
    pub fn any(&mut self, flag: bool) -> Result<bool> {
        let mut votes = [f64::from(u8::from(flag))];
        self.sum(&mut votes)?;
        Ok(votes[0] > 0.0)
    }

    /// Comes back when everybody is here.
    pub fn barrier(&mut self) -> Result<()> {
        self.any(false).map(|_| ())
    }

    /// Sums large vectors: each worker sums its part and hands it to all.
    pub fn all_reduce(&mut self, values: &mut [f32]) -> Result<()> {
        let part = values.len().div_ceil(self.world());
        let bounds = |rank: usize| {
            let at = |n: usize| (n * part).min(values.len());
            at(rank)..at(rank + 1)
        };
        let parts: Vec<_> = (0..self.world()).map(bounds).collect();
        self.reduce_scatter(values, &parts)?;
        self.all_gather(values, &parts)
    }

    /// Sums the part of `values` that is this worker's; the others' are left as they are.
    pub fn reduce_scatter(
        &mut self,
        values: &mut [f32],
        parts: &[std::ops::Range<usize>],
    ) -> Result<()> {
        let rank = self.rank();
        let own = parts[rank].clone();
        let mut theirs = vec![vec![0.0f32; own.len()]; self.world()];
        theirs[rank].copy_from_slice(&values[own.clone()]);
        self.meet(|link, other, first| {
            let out: &[u8] = bytemuck::cast_slice(&values[parts[other].clone()]);
            let into = bytemuck::cast_slice_mut(&mut theirs[other]);
            both(link, other, first, out, into)
        })?;
        add_up(&theirs, &mut values[own]);
        Ok(())
    }

    /// Hands this worker's part of `values` to all and takes theirs.
    pub fn all_gather(
        &mut self,
        values: &mut [f32],
        parts: &[std::ops::Range<usize>],
    ) -> Result<()> {
        let own = values[parts[self.rank()].clone()].to_vec();
        self.meet(|link, other, first| {
            let into = bytemuck::cast_slice_mut(&mut values[parts[other].clone()]);
            both(link, other, first, bytemuck::cast_slice(&own), into)
        })
    }

    /// `bytes` of rank 0 for all.
    pub fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        if self.rank() == 0 {
            for other in 1..self.world() {
                self.send_whole(other, bytes)?;
            }
        } else {
            *bytes = self.receive_whole(0)?;
        }
        Ok(())
    }

    /// `bytes` of all for rank 0, by rank; nobody else gets any.
    pub fn gather(&mut self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        if self.rank() > 0 {
            self.send_whole(0, &bytes)?;
            return Ok(Vec::new());
        }
        let mut all = vec![bytes];
        for other in 1..self.world() {
            all.push(self.receive_whole(other)?);
        }
        Ok(all)
    }

    fn send_whole(&mut self, to: usize, bytes: &[u8]) -> Result<()> {
        self.link.send(to, &(bytes.len() as u64).to_ne_bytes())?;
        self.link.send(to, bytes)
    }

    fn receive_whole(&mut self, from: usize) -> Result<Vec<u8>> {
        let mut length = [0; 8];
        self.link.receive(from, &mut length)?;
        let length = usize::try_from(u64::from_ne_bytes(length)).map_err(Error::internal)?;
        let mut bytes = vec![0; length];
        self.link.receive(from, &mut bytes)?;
        Ok(bytes)
    }
}

/// Both directions between a pair, one after the other: nobody waits for a full pipe.
pub(crate) fn both(
    link: &mut dyn Link,
    other: usize,
    first: bool,
    out: &[u8],
    into: &mut [u8],
) -> Result<()> {
    if first {
        link.send(other, out)?;
        link.receive(other, into)
    } else {
        link.receive(other, into)?;
        link.send(other, out)
    }
}

/// The sum of all parts, in their order.
pub(crate) fn add_up(parts: &[Vec<f32>], sum: &mut [f32]) {
    let Some((first, rest)) = parts.split_first() else {
        return;
    };
    sum.copy_from_slice(first);
    for part in rest {
        for (sum, value) in sum.iter_mut().zip(part) {
            *sum += value;
        }
    }
}
