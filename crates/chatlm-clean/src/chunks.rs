//! Raw rows in pieces, read on a thread of their own while those before are worked on.

use std::sync::mpsc::sync_channel;

use chatlm_dataset::Row;
use chatlm_job::{Error, Result};
use serde_json::Value;

use crate::source::Raw;

/// Enough rows to be worth sharing out, few enough to hold three such pieces.
const ROWS: usize = 512;
/// Long rows make a piece of fewer.
const BYTES: usize = 4 << 20;

/// The next rows; an error comes after the rows before it.
struct Piece {
    rows: Vec<Row>,
    error: Option<Error>,
}

fn next_piece(raw: &mut dyn Raw) -> Option<Piece> {
    let mut piece = Piece {
        rows: Vec::with_capacity(ROWS),
        error: None,
    };
    let mut bytes = 0;
    while piece.rows.len() < ROWS && bytes < BYTES {
        match raw.next() {
            Some(Ok(row)) => {
                bytes += size(&row);
                piece.rows.push(row);
            }
            Some(Err(error)) => {
                piece.error = Some(error);
                return Some(piece);
            }
            None if piece.rows.is_empty() => return None,
            None => break,
        }
    }
    Some(piece)
}

fn size(row: &Row) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(of).sum(),
            Value::Object(fields) => fields.values().map(of).sum(),
            _ => 8,
        }
    }
    row.fields.values().map(of).sum()
}

/// Gives all rows to `take` in order and hands the reader back.
pub(crate) fn each(
    mut raw: Box<dyn Raw>,
    mut take: impl FnMut(Vec<Row>) -> Result<()>,
) -> Result<Box<dyn Raw>> {
    let mut take = move |piece: Piece| {
        take(piece.rows)?;
        piece.error.map_or(Ok(()), Err)
    };
    if rayon::current_num_threads() == 1 {
        while let Some(piece) = next_piece(raw.as_mut()) {
            take(piece)?;
        }
        return Ok(raw);
    }
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(1);
        let reading = scope.spawn(move || {
            while let Some(piece) = next_piece(raw.as_mut()) {
                if send.send(piece).is_err() {
                    break;
                }
            }
            raw
        });
        // Dropping the receiver, also after an error, ends the reading.
        let taken = receive.into_iter().try_for_each(&mut take);
        let raw = reading
            .join()
            .map_err(|_| Error::internal("the reading thread panicked"))?;
        taken.map(|()| raw)
    })
}
