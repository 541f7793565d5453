//! The loop: take in, give up, admit, step, tell.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chatlm_generate::{Answer, Batch, Decoder, Observer, Request};
use chatlm_job::{Cancel, Error, Result};
use chatlm_tokenizer::Tokenizer;

use super::queue::Queue;
use super::running::Running;
use super::{Limits, ServingStats, Told, Waiting};
use crate::generator::Generator;

/// Answers until `over`, or until nobody can ask any more and all is said.
pub(crate) fn run(
    generator: &Generator,
    limits: Limits,
    inbox: &Receiver<Waiting>,
    stats: &Mutex<ServingStats>,
    over: &Cancel,
) {
    let mut schedule = Schedule {
        generator,
        limits,
        stats,
        decoder: generator.decoder(),
        batch: Batch::default(),
        queue: Queue::default(),
        running: BTreeMap::new(),
    };
    loop {
        if schedule.is_idle() {
            match inbox.recv() {
                Ok(waiting) => schedule.queue.push(waiting),
                Err(_) => return,
            }
        }
        while let Ok(waiting) = inbox.try_recv() {
            schedule.queue.push(waiting);
        }
        if over.is_cancelled() {
            schedule.give_up(|_| true, |_| true);
            return;
        }
        schedule.turn();
    }
}

struct Schedule<'a> {
    generator: &'a Generator,
    limits: Limits,
    stats: &'a Mutex<ServingStats>,
    decoder: Box<dyn Decoder + 'a>,
    batch: Batch,
    queue: Queue,
    /// By place in the batch.
    running: BTreeMap<usize, Running>,
}

impl Schedule<'_> {
    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queue.is_empty()
    }

    fn turn(&mut self) {
        let now = Instant::now();
        self.give_up(
            |waiting| waiting.is_over(now),
            |running| running.is_over(now),
        );
        if let Err(error) = self.admit().and_then(|()| self.step()) {
            self.fail_all(&error);
        }
        self.count(|stats, schedule| {
            stats.running = schedule.running.len();
            stats.rows = schedule.batch.rows();
            stats.cache_bytes = schedule.reserved();
        });
    }

    fn count(&self, change: impl FnOnce(&mut ServingStats, &Self)) {
        change(
            &mut self.stats.lock().unwrap_or_else(PoisonError::into_inner),
            self,
        );
    }

    /// Rows and bytes that those at work may come to need.
    fn reserved(&self) -> u64 {
        self.running
            .values()
            .map(|running| running.asked.bytes)
            .sum()
    }

    /// Lets requests in as long as they fit.
    fn admit(&mut self) -> Result<()> {
        if !self.running.is_empty() && !self.decoder.grows() {
            return Ok(());
        }
        let mut rows: usize = self
            .running
            .values()
            .map(|running| running.asked.rows)
            .sum();
        let mut bytes = self.reserved();
        let mut prompt = 0;
        let mut coming: Vec<Waiting> = Vec::new();
        let limits = self.limits;
        let others = !self.running.is_empty();
        while let Some(waiting) = self.queue.pop_if(|waiting| {
            let read = prompt + waiting.request.ids.len();
            rows + waiting.rows <= limits.rows
                && bytes + waiting.bytes <= limits.cache_bytes
                && (prompt == 0 || !others || read <= limits.prompt_tokens)
        }) {
            rows += waiting.rows;
            bytes += waiting.bytes;
            prompt += waiting.request.ids.len();
            coming.push(waiting);
        }
        if coming.is_empty() {
            return Ok(());
        }
        self.count(|stats, _| {
            stats.waiting -= coming.len();
            stats.prompt_tokens += prompt as u64;
        });
        let each: Vec<(&Request, Arc<_>)> = coming
            .iter()
            .map(|waiting| (&waiting.request, waiting.settings.clone()))
            .collect();
        match self.batch.add_each(self.decoder.as_mut(), &each) {
            Ok(first) => {
                for (place, waiting) in (first..).zip(coming) {
                    self.running.insert(place, Running::new(waiting, place));
                }
                Ok(())
            }
            Err(error) => {
                for waiting in coming {
                    self.finish(Running::new(waiting, usize::MAX), Err(error.clone()));
                }
                Err(error)
            }
        }
    }

    fn step(&mut self) -> Result<()> {
        let tokenizer = self.generator.tokenizer();
        let rows = self.batch.rows() as u64;
        let mut listener = Listener {
            tokenizer,
            running: &mut self.running,
        };
        let done = self.batch.step(self.decoder.as_mut(), &mut listener)?;
        for (place, found) in done {
            if let Some(running) = self.running.remove(&place) {
                self.finish(running, found);
            }
        }
        if rows > 0 {
            self.count(|stats, _| {
                stats.steps += 1;
                stats.rows_stepped += rows;
            });
        }
        Ok(())
    }

    fn finish(&self, mut running: Running, found: Result<Vec<Answer>>) {
        let tokenizer = self.generator.tokenizer();
        // Counted before it is told: whoever knows of an answer finds it in the numbers.
        let told = match found.and_then(|found| running.outcome(found, tokenizer)) {
            Ok(outcome) => {
                let written: usize = outcome.answers.iter().map(|a| a.tokens.len()).sum();
                self.count(|stats, _| {
                    stats.answered += 1;
                    stats.tokens += written as u64;
                });
                Told::Done(outcome)
            }
            Err(error) => {
                self.count(|stats, _| stats.failed += 1);
                Told::Failed(self.generator.blame(error))
            }
        };
        (running.asked.tell)(told);
    }

    /// Ends what waits or runs and need not any more.
    fn give_up(&mut self, waits: impl FnMut(&Waiting) -> bool, runs: impl Fn(&Running) -> bool) {
        let gone = self.queue.take_where(waits);
        let places: Vec<usize> = self
            .running
            .values()
            .filter(|running| runs(running))
            .map(|running| running.place)
            .collect();
        if gone.is_empty() && places.is_empty() {
            return;
        }
        self.count(|stats, _| {
            stats.waiting -= gone.len();
            stats.cancelled += (gone.len() + places.len()) as u64;
        });
        for waiting in gone {
            Running::new(waiting, usize::MAX).give_up();
        }
        if !places.is_empty() {
            let removed = self.batch.remove(self.decoder.as_mut(), &places);
            for place in places {
                if let Some(running) = self.running.remove(&place) {
                    running.give_up();
                }
            }
            if let Err(error) = removed {
                self.fail_all(&error);
            }
        }
    }

    /// The decoder failed: nobody can go on, and the next begin anew.
    fn fail_all(&mut self, error: &Error) {
        for running in std::mem::take(&mut self.running).into_values() {
            self.finish(running, Err(error.clone()));
        }
        self.batch = Batch::default();
        self.decoder = self.generator.decoder();
    }
}

/// Hands tokens to the requests they belong to.
struct Listener<'a> {
    tokenizer: &'a Tokenizer,
    running: &'a mut BTreeMap<usize, Running>,
}

impl Observer for Listener<'_> {
    fn wrote(&mut self, place: usize, answer: usize, tokens: &[u32]) {
        if let Some(running) = self.running.get_mut(&place) {
            running.wrote(answer, tokens, self.tokenizer);
        }
    }

    fn ends(&mut self, place: usize, tokens: &[u32]) -> bool {
        let Some(running) = self.running.get_mut(&place) else {
            return true;
        };
        running
            .asked
            .stops
            .reached(self.tokenizer, tokens)
            .unwrap_or_else(|error| {
                running.result = Err(error);
                true
            })
    }
}
