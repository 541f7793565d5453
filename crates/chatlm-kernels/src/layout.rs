//! Rows of a batch laid end to end, without padding: what costs nothing is never computed.

/// Where each row's places are: row r is `start(r)..start(r + 1)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    starts: Vec<usize>,
    /// The row of each place.
    row_of: Vec<u32>,
}

impl Rows {
    pub fn new(lengths: &[usize]) -> Self {
        let mut starts = vec![0];
        let mut row_of = Vec::with_capacity(lengths.iter().sum());
        for (row, &length) in lengths.iter().enumerate() {
            row_of.resize(row_of.len() + length, row as u32);
            starts.push(row_of.len());
        }
        Self { starts, row_of }
    }

    /// Rows.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Places of all rows.
    pub fn places(&self) -> usize {
        self.row_of.len()
    }

    pub fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.starts[row]..self.starts[row + 1]
    }

    pub fn length(&self, row: usize) -> usize {
        self.range(row).len()
    }

    /// The longest row's length.
    pub fn longest(&self) -> usize {
        (0..self.count())
            .map(|row| self.length(row))
            .max()
            .unwrap_or(0)
    }

    /// A place's row, and its position there.
    pub(crate) fn position(&self, place: usize) -> (usize, usize) {
        let row = self.row_of[place] as usize;
        (row, place - self.starts[row])
    }
}
