//! The stream of batches that the loader's thread makes: one group of rows in memory, encoded a
//! section at a time in parallel, cut into batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chatlm_job::{Error, Result, mix};
use rayon::prelude::*;

use super::group::{Block, Group};
use super::order::Epoch;
use super::{Batch, Cursor, Shared};

pub(super) struct Stream {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    /// The first row that no batch has taken.
    cursor: Cursor,
    epoch: Epoch,
    group: Option<Group>,
    /// Batches that wait, the first of them at the cursor.
    ready: VecDeque<Vec<Ready>>,
}

struct Ready {
    place: u64,
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

    /// This shard's batch of the next round. A round is one batch for every shard, so all of them
    /// agree about the cursor after it.
    pub(super) fn batch(&mut self) -> Result<Batch> {
        let shard = self.shared.options.shard;
        let mut ours = None;
        for rank in 0..shard.world {
            let (rows, epoch) = self.next_rows()?;
            if rank == shard.rank {
                ours = Some((rows, epoch));
            }
        }
        let (rows, epoch) = ours.ok_or_else(|| Error::internal("a shard beyond the last"))?;
        let key = mix(self.shared.options.seed, epoch);
        let mut batch = Batch {
            keys: Vec::with_capacity(rows.len()),
            fields: vec![Vec::with_capacity(rows.len()); self.shared.options.columns.len()],
            indices: Vec::with_capacity(rows.len()),
            epoch,
            next: self.cursor,
        };
        for row in rows {
            batch.keys.push(mix(key, row.place));
            batch.indices.push(row.index);
            for (field, ids) in batch.fields.iter_mut().zip(row.ids?) {
                field.push(ids);
            }
        }
        Ok(batch)
    }

    /// The batch at the cursor and its epoch, whose end it never crosses.
    fn next_rows(&mut self) -> Result<(Vec<Ready>, u64)> {
        self.check()?;
        let rows = loop {
            match self.ready.pop_front() {
                Some(rows) => break rows,
                None => self.plan()?,
            }
        };
        let epoch = self.cursor.epoch;
        self.cursor.row += rows.len() as u64;
        if self.cursor.row >= self.shared.order.total() {
            self.cursor = Cursor {
                epoch: epoch + 1,
                row: 0,
            };
            self.epoch = self.shared.order.epoch(epoch + 1);
            self.group = None;
        }
        Ok((rows, epoch))
    }

    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::cancelled());
        }
        self.shared.cancel.check()
    }

    /// Cuts the section at the cursor into batches, and leaves out those before the cursor.
    fn plan(&mut self) -> Result<()> {
        let (cut, total) = (self.shared.cut, self.shared.order.total());
        let section = cut.section(self.cursor.row, total);
        let rows = self.encode(section.clone())?;
        let fields = self.shared.options.columns.len();
        let lengths: Vec<Vec<u32>> = rows.iter().map(|row| row.lengths(fields)).collect();
        let shuffle = |batches| self.epoch.batches(section.start, batches);
        let batches = cut.batches(&lengths, shuffle);
        let mut rows: Vec<Option<Ready>> = rows.into_iter().map(Some).collect();
        let mut start = section.start;
        for batch in batches {
            let size = batch.len() as u64;
            if start >= self.cursor.row {
                let batch = batch.into_iter().filter_map(|row| rows[row].take());
                self.ready.push_back(batch.collect());
            } else if start + size > self.cursor.row {
                // No batch starts at the cursor: it came from other settings.
                self.cursor.row = start + size;
            }
            start += size;
        }
        if self.cursor.row >= total {
            self.cursor.row = 0;
            self.cursor.epoch += 1;
            self.epoch = self.shared.order.epoch(self.cursor.epoch);
            self.group = None;
        }
        Ok(())
    }

    /// Encodes the rows of places, which may lie in several groups.
    fn encode(&mut self, places: std::ops::Range<u64>) -> Result<Vec<Ready>> {
        let mut ready = Vec::with_capacity((places.end - places.start) as usize);
        let mut place = places.start;
        while place < places.end {
            self.check()?;
            let number = self.epoch.group_of(place);
            let group = match self.group.take() {
                Some(group) if group.number == number => group,
                _ => self.read(number)?,
            };
            let end = self.epoch.places(number).end.min(places.end);
            let here: Vec<u64> = (place..end).collect();
            ready.extend(self.shared.install(|| {
                here.into_par_iter()
                    .map(|place| self.encode_row(place, &group))
                    .collect::<Vec<_>>()
            }));
            self.group = Some(group);
            place = end;
        }
        Ok(ready)
    }

    fn encode_row(&self, place: u64, group: &Group) -> Ready {
        let (tokenizer, longest) = (&self.shared.tokenizer, self.shared.options.max_length);
        let (index, texts) = group.row(place - self.epoch.places(group.number).start);
        let encode = |text: &str| {
            let mut ids = tokenizer.encode_up_to(text, longest - 1)?;
            ids.push(tokenizer.eos_id());
            Ok(ids)
        };
        Ready {
            place,
            index,
            ids: texts.and_then(|texts| texts.into_iter().map(encode).collect()),
        }
    }

    /// Reads a group, its blocks in parallel; the group before was dropped already.
    fn read(&self, number: usize) -> Result<Group> {
        let rows = self.epoch.rows(number);
        let columns = self.shared.options.columns.len();
        let blocks = self.shared.install(|| {
            rows.into_par_iter()
                .map(|rows| {
                    self.check()?;
                    Ok(Block::new(self.shared.source.read(&rows)?, columns))
                })
                .collect::<Result<_>>()
        })?;
        Ok(Group::new(number, blocks, self.epoch.inside(number)))
    }
}

impl Ready {
    /// Tokens by field; a broken row, which ends its batch anyway, counts as empty.
    fn lengths(&self, fields: usize) -> Vec<u32> {
        match &self.ids {
            Ok(ids) => ids.iter().map(|ids| ids.len() as u32).collect(),
            Err(_) => vec![0; fields],
        }
    }
}
