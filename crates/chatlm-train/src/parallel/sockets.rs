//! Workers on one machine, a Unix socket between each two. The system closes the sockets of a process
//! that dies, however it dies, so the others know at once.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chatlm_job::{Cancel, Code, Error, Result};

use super::Link;

/// How long workers wait for each other at the start.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(10);

/// Sockets to all other workers.
pub struct SocketLink {
    rank: usize,
    /// By rank; none to oneself.
    streams: Vec<Option<UnixStream>>,
}

impl SocketLink {
    /// Meets the other workers in `folder`, which is theirs alone.
    pub fn connect(folder: &Path, rank: usize, world: usize, cancel: &Cancel) -> Result<Self> {
        if rank >= world {
            return Err(Error::internal(format!("worker {rank} of {world}")));
        }
        let name = |rank: usize| folder.join(format!("{rank}.sock"));
        let mut streams: Vec<Option<UnixStream>> = (0..world).map(|_| None).collect();
        let until = Instant::now() + PATIENCE;
        let own = name(rank);
        let listener = bind(&own)?;
        for (other, stream) in streams.iter_mut().enumerate().take(rank) {
            let mut found = wait(until, cancel, other, || {
                match UnixStream::connect(name(other)) {
                    Ok(stream) => Ok(Some(stream)),
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::NotFound | ErrorKind::ConnectionRefused
                        ) && folder.exists() =>
                    {
                        Ok(None)
                    }
                    Err(error) => Err(lost(other, &error.to_string())),
                }
            })?;
            found
                .write_all(&(rank as u32).to_ne_bytes())
                .map_err(|error| lost(other, &error.to_string()))?;
            *stream = Some(found);
        }
        for _ in rank + 1..world {
            let mut stream = wait(until, cancel, rank + 1, || match listener.accept() {
                Ok((stream, _)) => Ok(Some(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock && folder.exists() => Ok(None),
                Err(error) => Err(Error::io(&error, "listen at", &own)),
            })?;
            let mut other = [0; 4];
            stream
                .set_nonblocking(false)
                .and_then(|()| stream.read_exact(&mut other))
                .map_err(|error| Error::io(&error, "read from", &own))?;
            let other = u32::from_ne_bytes(other) as usize;
            match streams.get_mut(other) {
                Some(place @ None) if other > rank => *place = Some(stream),
                _ => return Err(Error::internal(format!("worker {other} came twice"))),
            }
        }
        // Everybody is connected: nobody looks for the file any more.
        let _ = fs::remove_file(&own);
        Ok(Self { rank, streams })
    }

    fn stream(&mut self, other: usize) -> Result<&mut UnixStream> {
        self.streams
            .get_mut(other)
            .and_then(Option::as_mut)
            .ok_or_else(|| Error::internal(format!("no link to worker {other}")))
    }
}

fn bind(path: &PathBuf) -> Result<UnixListener> {
    UnixListener::bind(path)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| Error::io(&error, "listen at", path))
}

fn wait<T>(
    until: Instant,
    cancel: &Cancel,
    other: usize,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        cancel.check()?;
        if Instant::now() > until {
            return Err(lost(other, "it never came"));
        }
        std::thread::sleep(PAUSE);
    }
}

/// A worker that does not answer any more.
pub(crate) fn lost(rank: usize, why: &str) -> Error {
    Error::new(
        Code::WorkerLost,
        format!("worker {rank} is gone: {why}"),
        "run the same command again: it goes on from the last checkpoint; was it killed for its memory?",
    )
    .with("rank", rank)
}

fn broken(rank: usize, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            lost(rank, "it ended or was killed")
        }
        _ => lost(rank, &error.to_string()),
    }
}

impl Link for SocketLink {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.streams.len()
    }

    fn send(&mut self, to: usize, bytes: &[u8]) -> Result<()> {
        self.stream(to)?
            .write_all(bytes)
            .map_err(|error| broken(to, &error))
    }

    fn receive(&mut self, from: usize, bytes: &mut [u8]) -> Result<()> {
        self.stream(from)?
            .read_exact(bytes)
            .map_err(|error| broken(from, &error))
    }
}
