//! The two threads between a long job and whoever started it: stop, and how far it is.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{Error, Result};

/// A flag that asks a running job to save and stop. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails with `CANCELLED` once the flag is set; call it once per row group, batch or step.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(Error::cancelled())
        } else {
            Ok(())
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// What is being done, such as `read` or `verify`.
    pub stage: String,
    pub done: u64,
    /// `None` where the end is not known.
    pub total: Option<u64>,
    /// What is counted: `rows`, `bytes`, `steps`.
    pub unit: String,
}

type Sink = dyn Fn(Progress) + Send + Sync;

/// Passes progress on, at most ten times a second and always when a stage ends.
#[derive(Clone)]
pub struct Reporter {
    sink: Arc<Sink>,
    last: Arc<Mutex<Option<Instant>>>,
}

impl Reporter {
    const PAUSE: Duration = Duration::from_millis(100);

    pub fn new(sink: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self {
            sink: Arc::new(sink),
            last: Arc::default(),
        }
    }

    /// A reporter that nobody listens to.
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    pub fn report(&self, stage: &str, done: u64, total: Option<u64>, unit: &str) {
        let now = Instant::now();
        if total != Some(done) {
            let Ok(mut last) = self.last.lock() else {
                return;
            };
            if last.is_some_and(|before| now.duration_since(before) < Self::PAUSE) {
                return;
            }
            *last = Some(now);
        }
        (self.sink)(Progress {
            stage: stage.to_owned(),
            done,
            total,
            unit: unit.to_owned(),
        });
    }
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Reporter")
    }
}

/// What a long function is given besides its options.
#[derive(Debug, Clone)]
pub struct Job {
    pub cancel: Cancel,
    pub progress: Reporter,
}

impl Job {
    /// A job that is never cancelled and reports to nobody: for tests.
    pub fn quiet() -> Self {
        Self {
            cancel: Cancel::default(),
            progress: Reporter::silent(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelling_a_clone_cancels_the_job() {
        let cancel = Cancel::default();
        assert!(cancel.check().is_ok());
        cancel.clone().cancel();
        assert!(cancel.check().is_err());
    }

    #[test]
    fn progress_is_throttled_but_the_end_is_told() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        let reporter = Reporter::new(move |p| {
            if let Ok(mut all) = into.lock() {
                all.push(p.done);
            }
        });
        for done in 0..=1000 {
            reporter.report("read", done, Some(1000), "rows");
        }
        let seen = seen.lock().map(|all| all.clone()).unwrap_or_default();
        assert_eq!(seen.last(), Some(&1000));
        assert!(seen.len() < 100, "{} reports", seen.len());
    }
}
