//! Rows of a table by id; the gradient is scattered straight into the table's.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::math::vector;
use crate::rows::{for_rows, fused, read, zeros};
use crate::tape::{Tape, Value, Weight, twin};

/// Columns of the table that are one task of the backward.
const BLOCK: usize = 64;

/// Rows `ids (n)` of `weight (v, d)`, as `(n, d)`.
pub fn embedding(tape: &Tape, weight: &Weight, ids: &Tensor) -> Result<Value> {
    let (height, width) = weight.tensor().dims2()?;
    let places: Vec<u32> = ids.flatten_all()?.to_vec1()?;
    if let Some(id) = places.iter().find(|&&id| id as usize >= height) {
        bail!("id {id} is outside a vocabulary of {height}");
    }
    if !fused(&[weight.tensor()]) {
        let ids = ids.clone();
        return twin(tape, &[], &[weight], move |_, w| {
            w[0].embedding(&ids.flatten_all()?)
        });
    }
    let y = {
        let table = read(weight.tensor())?;
        let table = &*table;
        let mut out = zeros(places.len() * width);
        for_rows(&mut out, width, |row, out| {
            let from = places[row] as usize * width;
            out.copy_from_slice(&table[from..from + width]);
        });
        Tensor::from_vec(out, (places.len(), width), weight.tensor().device())?
    };
    let index = weight.index();
    Ok(tape.result(y, index.is_some(), move |backward, gradient| {
        let Some(index) = index else {
            return Ok(());
        };
        let gradient = gradient.contiguous()?;
        let g = read(&gradient)?;
        backward.gradients.write(index, |table, add| {
            scatter(table, &places, &g, width, add);
        });
        Ok(())
    }))
}

/// The table's address, shared by tasks that write disjoint columns.
#[derive(Clone, Copy)]
struct Table(*mut f32);

#[expect(unsafe_code, reason = "tasks write disjoint columns of one table")]
// SAFETY: every task touches only its own block of columns.
unsafe impl Send for Table {}
#[expect(unsafe_code, reason = "tasks write disjoint columns of one table")]
// SAFETY: as above.
unsafe impl Sync for Table {}

/// Adds row i of `g` to row `places[i]` of the table: each block of columns by one task, in the
/// order of the places.
fn scatter(table: &mut [f32], places: &[u32], g: &[f32], width: usize, add: bool) {
    if !add {
        table
            .par_chunks_mut(1 << 16)
            .for_each(|part| part.fill(0.0));
    }
    let rows = table.len() / width.max(1);
    let to = Table(table.as_mut_ptr());
    (0..width.div_ceil(BLOCK))
        .into_par_iter()
        .for_each(|block| {
            // A whole copy, as its field alone may not cross threads.
            let Table(to) = { to };
            let columns = block * BLOCK..((block + 1) * BLOCK).min(width);
            vector(
                #[inline(always)]
                || {
                    for (&place, g) in places.iter().zip(g.chunks_exact(width)) {
                        assert!((place as usize) < rows);
                        let count = columns.len();
                        #[expect(unsafe_code, reason = "a block of columns of one row")]
                        // SAFETY: the row is inside the table, and these columns are this task's alone.
                        let line = unsafe {
                            let from = to.add(place as usize * width + columns.start);
                            std::slice::from_raw_parts_mut(from, count)
                        };
                        for (sum, g) in line.iter_mut().zip(&g[columns.clone()]) {
                            *sum += g;
                        }
                    }
                },
            );
        });
}
