//! The texts of a shuffle group, block by block in a few large pieces of memory: a string a text would
//! cost as much again and leave holes.

use chatlm_job::{Error, Permutation, Result};

use super::source::Record;

/// The rows of a group, in the order of their blocks.
pub(super) struct Group {
    pub(super) number: usize,
    blocks: Vec<Block>,
    /// Where in the rows each place of the group looks; `None`: in their order.
    inside: Option<Permutation>,
}

/// Some rows that were read together.
pub(super) struct Block {
    indices: Vec<u64>,
    /// All texts, row by row and column by column.
    bytes: String,
    /// Where each text ends.
    ends: Vec<usize>,
    columns: usize,
    /// Broken rows, whose texts count as empty.
    faults: Vec<(usize, Error)>,
}

impl Block {
    pub(super) fn new(records: Vec<Record>, columns: usize) -> Self {
        let texts = records
            .iter()
            .filter_map(|record| record.texts.as_ref().ok());
        let size = texts.flatten().map(String::len).sum();
        let mut block = Self {
            indices: Vec::with_capacity(records.len()),
            bytes: String::with_capacity(size),
            ends: Vec::with_capacity(records.len() * columns),
            columns,
            faults: Vec::new(),
        };
        for (row, record) in records.into_iter().enumerate() {
            block.indices.push(record.index);
            let texts = record.texts.unwrap_or_else(|error| {
                block.faults.push((row, error));
                vec![String::new(); columns]
            });
            for text in texts {
                block.bytes.push_str(&text);
                block.ends.push(block.bytes.len());
            }
        }
        block
    }

    fn texts(&self, row: usize) -> Result<Vec<&str>> {
        if let Some((_, error)) = self.faults.iter().find(|(fault, _)| *fault == row) {
            return Err(error.clone());
        }
        let first = row * self.columns;
        let text = |place: usize| {
            let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
            &self.bytes[start..self.ends[place]]
        };
        Ok((first..first + self.columns).map(text).collect())
    }
}

impl Group {
    pub(super) fn new(number: usize, blocks: Vec<Block>, inside: Option<Permutation>) -> Self {
        Self {
            number,
            blocks,
            inside,
        }
    }

    /// The index of the row at a place of the group, and its texts by column or what is wrong with it.
    pub(super) fn row(&self, place: u64) -> (u64, Result<Vec<&str>>) {
        let mut row = self.inside.as_ref().map_or(place, |i| i.at(place)) as usize;
        for block in &self.blocks {
            if let Some(index) = block.indices.get(row) {
                return (*index, block.texts(row));
            }
            row -= block.indices.len();
        }
        (
            0,
            Err(Error::internal(format!("a group without a place {place}"))),
        )
    }
}
