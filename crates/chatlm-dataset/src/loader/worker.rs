//! The stream of batches that the loader's thread makes: one group of rows in memory, encoded some
//! hundreds at a time in parallel, cut into batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chatlm_job::{Error, Permutation, Result, mix};
use rayon::prelude::*;

use super::order::Epoch;
use super::source::Record;
use super::{Batch, Cursor, Shared};

/// Rows encoded at a time.
const PIECE: u64 = 512;

pub(super) struct Stream {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    cursor: Cursor,
    epoch: Epoch,
    group: Option<Group>,
    /// Encoded rows that wait for their batch, the first of them at the cursor.
    ready: VecDeque<Ready>,
}

/// The rows of a group, in the order of their blocks.
struct Group {
    number: usize,
    records: Vec<Record>,
    inside: Permutation,
}

struct Ready {
    index: u64,
    ids: Result<Vec<Vec<u32>>>,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, cursor: Cursor, stop: Arc<AtomicBool>) -> Self {
        let epoch = shared.order.epoch(cursor.epoch);
        Self {
            shared,
            stop,
            cursor,
            epoch,
            group: None,
            ready: VecDeque::new(),
        }
    }

    /// The batch at the cursor; never crosses the end of an epoch.
    pub(super) fn batch(&mut self) -> Result<Batch> {
        self.check()?;
        let Cursor { epoch, row } = self.cursor;
        let total = self.shared.order.total();
        let size = (self.shared.options.batch_size as u64).min(total - row);
        let key = mix(self.shared.options.seed, epoch);
        let mut batch = Batch {
            keys: (row..row + size).map(|place| mix(key, place)).collect(),
            fields: vec![Vec::with_capacity(size as usize); self.shared.options.columns.len()],
            indices: Vec::with_capacity(size as usize),
            epoch,
            next: Cursor {
                epoch,
                row: row + size,
            },
        };
        while batch.indices.len() < size as usize {
            let Some(ready) = self.ready.pop_front() else {
                self.encode(row + batch.indices.len() as u64)?;
                continue;
            };
            batch.indices.push(ready.index);
            for (field, ids) in batch.fields.iter_mut().zip(ready.ids?) {
                field.push(ids);
            }
        }
        if batch.next.row == total {
            batch.next = Cursor {
                epoch: epoch + 1,
                row: 0,
            };
            self.epoch = self.shared.order.epoch(epoch + 1);
            self.group = None;
        }
        self.cursor = batch.next;
        Ok(batch)
    }

    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::cancelled());
        }
        self.shared.cancel.check()
    }

    /// Encodes rows from a place on: at most a piece, and none of the next group.
    fn encode(&mut self, place: u64) -> Result<()> {
        let number = self.epoch.group_of(place);
        let group = match self.group.take() {
            Some(group) if group.number == number => group,
            _ => self.read(number)?,
        };
        let places = self.epoch.places(number);
        let here = place..(place + PIECE).min(places.end);
        let shuffled = self.epoch.shuffled();
        let (tokenizer, longest) = (&self.shared.tokenizer, self.shared.options.max_length);
        let encode = |place: u64| -> Ready {
            let inside = place - places.start;
            let inside = if shuffled {
                group.inside.at(inside)
            } else {
                inside
            };
            let record = &group.records[inside as usize];
            let ids = match &record.texts {
                Ok(texts) => texts
                    .iter()
                    .map(|text| {
                        let mut ids = tokenizer.encode(text)?;
                        ids.truncate(longest - 1);
                        ids.push(tokenizer.eos_id());
                        Ok(ids)
                    })
                    .collect(),
                Err(error) => Err(error.clone()),
            };
            Ready {
                index: record.index,
                ids,
            }
        };
        let here: Vec<u64> = here.collect();
        let ready: Vec<Ready> = here.into_par_iter().map(encode).collect();
        self.ready.extend(ready);
        self.group = Some(group);
        Ok(())
    }

    /// Reads a group, its blocks in parallel; the group before was dropped already.
    fn read(&self, number: usize) -> Result<Group> {
        let blocks: Vec<Vec<Record>> = self
            .epoch
            .rows(number)
            .into_par_iter()
            .map(|rows| {
                self.check()?;
                self.shared.source.read(&rows)
            })
            .collect::<Result<_>>()?;
        let records = blocks.into_iter().flatten().collect();
        Ok(Group {
            number,
            records,
            inside: self.epoch.inside(number),
        })
    }
}
