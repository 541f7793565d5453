//! A thread that owns a value and runs work on it in order: training and generation live on such
//! threads, so that Node's small thread pool is never held for hours and one model is never used
//! by two calls at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use chatlm_job::{Error, Result};

type Work<T> = Box<dyn FnOnce(&mut T) + Send>;

/// The thread and the way to it. Dropped, it finishes what was submitted and drops the value.
pub struct Worker<T> {
    work: Option<Sender<Work<T>>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts a thread called `name` around `value`.
    pub fn start(name: &str, mut value: T) -> Result<Self> {
        let (work, todo) = channel::<Work<T>>();
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                for work in todo {
                    work(&mut value);
                }
            })
            .map_err(|e| Error::io(&e, "start a thread for", name))?;
        Ok(Self {
            work: Some(work),
            thread: Some(thread),
        })
    }

    /// Runs `task` on the thread and hands its result to `reply` there. A panic becomes `INTERNAL`.
    pub fn submit<R: Send + 'static>(
        &self,
        task: impl FnOnce(&mut T) -> Result<R> + Send + 'static,
        reply: impl FnOnce(Result<R>) + Send + 'static,
    ) {
        let work: Work<T> = Box::new(move |value| {
            reply(
                catch_unwind(AssertUnwindSafe(|| task(value)))
                    .unwrap_or_else(|panic| Err(panic_error(&*panic))),
            );
        });
        // The thread outlives the sender, and a panic inside the work is caught above.
        if let Some(sender) = &self.work {
            let _ = sender.send(work);
        }
    }

    /// Runs `task` on the thread and waits for it.
    pub fn call<R: Send + 'static>(
        &self,
        task: impl FnOnce(&mut T) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (sender, receiver) = channel();
        self.submit(task, move |result| {
            let _ = sender.send(result);
        });
        receiver
            .recv()
            .unwrap_or_else(|_| Err(Error::internal("the worker thread is gone")))
    }
}

/// Runs tensor work inside the thread pool: entered once, not at every product. Nothing in it may
/// wait for other users of the pool.
pub(crate) fn compute<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// What a caught panic says, as an error.
pub fn panic_error(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_owned());
    Error::internal(text)
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            // A worker dropped on its own thread (by its last reply) must not wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn work_runs_in_order_and_a_panic_is_an_error() {
        let worker = Worker::start("test", Vec::new()).unwrap();
        for n in 0..3 {
            worker.submit(
                move |all: &mut Vec<i32>| {
                    all.push(n);
                    Ok(())
                },
                |_| {},
            );
        }
        let error = worker
            .call(|_| -> Result<()> { panic!("on purpose") })
            .unwrap_err();
        assert!(error.message().contains("on purpose"));
        assert_eq!(worker.call(|all| Ok(all.clone())).unwrap(), [0, 1, 2]);
    }
}
