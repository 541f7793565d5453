//! Matrix products over f32 matrices of any strides, in f32 or with operands rounded to bf16.
//!
//! After Goto and van de Geijn (2008), "Anatomy of high-performance matrix multiplication", as BLIS
//! does it: both operands are copied once into panels as the kernel reads them, and tiles of the
//! result are computed by register kernels of each instruction set. A tile is computed by one
//! thread, its products added in a fixed order: the number of threads changes no bit.

mod kernel;
mod pack;
#[cfg(test)]
mod tests;

use std::cell::Cell;

use rayon::prelude::*;

use crate::cpu::{Cpu, cpu};
use crate::math::{dot, vector};
use kernel::Kernel;
use pack::{Line, Source};

/// What the operands of a product are rounded to; sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    #[default]
    F32,
    /// Rounded to nearest even bf16 as they are packed. Processors without bf16 products multiply the
    /// rounded values in f32, which gives the same result but for the order of additions.
    Bf16,
    /// Rounded to f16, products too: where candle's operators make them, since there is no kernel for it
    /// here. Its range is small: gradients want a scaled loss.
    F16,
}

/// A matrix in a slice: element (i, j) at `i · row + j · column`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major, `width` values from row to row.
    pub(crate) fn rows(values: &'a [f32], width: usize) -> Self {
        Self {
            values,
            row: width,
            column: 1,
        }
    }

    /// The transpose of the row-major matrix.
    pub(crate) fn columns(values: &'a [f32], width: usize) -> Self {
        Self {
            values,
            row: 1,
            column: width,
        }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }

    fn transposed(self) -> Self {
        Self {
            values: self.values,
            row: self.column,
            column: self.row,
        }
    }
}

/// `scale · a (m, k) · b (k, n)`.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: Matrix<'a>,
    pub(crate) b: Matrix<'a>,
    pub(crate) scale: f32,
    pub(crate) precision: Precision,
}

/// Packed values of the inner dimension that a panel holds at once: a panel of b fits the first cache.
const DEPTH: usize = 256;
/// Panels of a and of b whose tiles are one task.
const TASK_A: usize = 12;
const TASK_B: usize = 4;
/// Columns of b packed at once, so that they stay in the last cache.
const COLUMNS: usize = 4096;

/// Rows that are multiplied without packing, as a decoder's single steps have them.
const FEW: usize = 4;
/// Columns that are a task of such a product.
const FEW_COLUMNS: usize = 64;

/// The result's address, shared by tasks that write disjoint tiles.
#[derive(Clone, Copy)]
pub(crate) struct Out {
    at: *mut f32,
    row: usize,
    /// Values from `at` on.
    room: usize,
}

#[expect(unsafe_code, reason = "tasks write disjoint tiles of one result")]
// SAFETY: every task writes only the tile that its place in the grid gives it.
unsafe impl Send for Out {}
#[expect(unsafe_code, reason = "tasks write disjoint tiles of one result")]
// SAFETY: as above; nothing is read through it but the tile's own old values.
unsafe impl Sync for Out {}

impl Out {
    /// A row-major matrix whose parts different tasks write, each its own.
    pub(crate) fn new(values: &mut [f32], row: usize) -> Self {
        Self {
            at: values.as_mut_ptr(),
            row,
            room: values.len(),
        }
    }

    /// The matrix from a row and a column on.
    #[expect(unsafe_code, reason = "a place inside the matrix")]
    pub(crate) fn at(self, row: usize, column: usize) -> Self {
        let from = row * self.row + column;
        assert!(from <= self.room);
        Self {
            // SAFETY: the assertion keeps the place inside the matrix.
            at: unsafe { self.at.add(from) },
            room: self.room - from,
            ..self
        }
    }

    /// Writes values of one row, which must be the calling task's alone.
    #[expect(unsafe_code, reason = "values of one row of a shared matrix")]
    pub(crate) fn copy(self, row: usize, column: usize, values: &[f32]) {
        let to = self.at(row, column);
        assert!(values.len() <= to.room);
        // SAFETY: inside the matrix by the assertion, and nobody else's by the caller's word.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to.at, values.len()) }
    }
}

thread_local! {
    /// Packed operands, kept from product to product.
    static SCRATCH: Cell<(Vec<Line>, Vec<Line>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

impl Product<'_> {
    /// The product as a new row-major matrix, computed by all threads.
    #[expect(unsafe_code, reason = "the result is not zeroed before it is written")]
    pub(crate) fn new_matrix(&self) -> Vec<f32> {
        if self.m * self.n * self.k == 0 {
            return vec![0.0; self.m * self.n];
        }
        let mut c: Vec<f32> = Vec::with_capacity(self.m * self.n);
        // SAFETY: c has room for m rows of n values, and each of them is written before `set_len`
        // makes them part of the vector.
        unsafe {
            self.write(cpu(), c.as_mut_ptr(), self.n, false, true);
            c.set_len(self.m * self.n);
        }
        c
    }

    /// Writes the product to `c`, whose rows are `row` values apart, or adds it.
    pub(crate) fn write_to(&self, c: &mut [f32], row: usize, add: bool, parallel: bool) {
        self.write_on(cpu(), c, row, add, parallel);
    }

    /// Writes the product to a part of a shared matrix that is the
    /// calling task's alone, or adds it; on the calling thread.
    #[expect(unsafe_code, reason = "tiles are written through a pointer")]
    pub(crate) fn write_out(&self, out: Out, add: bool) {
        if self.m * self.n * self.k == 0 {
            return;
        }
        assert!(out.row >= self.n && (self.m - 1) * out.row + self.n <= out.room);
        // SAFETY: the assertion holds every row of the result inside the matrix, and the part is
        // nobody else's by the caller's word.
        unsafe { self.write(cpu(), out.at, out.row, add, false) }
    }

    #[expect(unsafe_code, reason = "tiles are written through a pointer")]
    fn write_on(&self, cpu: Cpu, c: &mut [f32], row: usize, add: bool, parallel: bool) {
        if self.m * self.n == 0 {
            return;
        }
        assert!(row >= self.n && (self.m - 1) * row + self.n <= c.len());
        if self.k == 0 {
            if !add {
                c.chunks_mut(row)
                    .take(self.m)
                    .for_each(|c| c[..self.n].fill(0.0));
            }
            return;
        }
        // SAFETY: the assertion holds every row of the result inside c, which nothing else refers to.
        unsafe { self.write(cpu, c.as_mut_ptr(), row, add, parallel) }
    }

    /// # Safety
    /// `c` must be valid for writes (and, to add, reads) of m rows of n values, `row` values apart,
    /// and m, n and k must not be 0.
    #[expect(unsafe_code, reason = "tiles are written through a pointer")]
    unsafe fn write(&self, cpu: Cpu, c: *mut f32, row: usize, add: bool, parallel: bool) {
        assert!(self.a.holds(self.m, self.k) && self.b.holds(self.k, self.n));
        if self.m <= FEW
            && self.a.column == 1
            && self.b.row == 1
            && self.precision == Precision::F32
        {
            // SAFETY: the caller's.
            unsafe { self.few(c, row, add, parallel) };
            return;
        }
        let kernel = Kernel::of(cpu, self.precision);
        let (mut a, mut b) = SCRATCH.take();
        let source = |matrix: Matrix<'_>, count: usize, width: usize| Source {
            values: matrix.values.as_ptr(),
            step: matrix.row,
            stride: matrix.column,
            count,
            depth: self.k,
            width,
        };
        let left = source(self.a, self.m, kernel.rows);
        pack::pack(kernel, left, &mut a, parallel);
        for from in (0..self.n).step_by(COLUMNS) {
            let count = COLUMNS.min(self.n - from);
            let turned = self.b.transposed();
            let mut right = source(turned, count, kernel.columns);
            // SAFETY: column `from` of b is inside its slice, by the assertion above.
            right.values = unsafe { right.values.add(from * turned.row) };
            pack::pack(kernel, right, &mut b, parallel);
            // SAFETY: column `from` of c is inside what the caller vouches for.
            let out = unsafe { c.add(from) };
            let out = Out {
                at: out,
                row,
                room: (self.m - 1) * row + count,
            };
            self.tiles(kernel, (&a, &b), (out, count), add, parallel);
        }
        SCRATCH.set((a, b));
    }

    /// A few rows by a matrix whose columns lie as they are read: nothing is packed, each value of b
    /// is read once. A row's result is the same beside any others.
    ///
    /// # Safety
    /// As [`Self::write`].
    #[expect(unsafe_code, reason = "tasks write disjoint columns of one result")]
    unsafe fn few(&self, c: *mut f32, row: usize, add: bool, parallel: bool) {
        let out = Out {
            at: c,
            row,
            room: (self.m - 1) * row + self.n,
        };
        let task = |task: usize| {
            // A whole copy, as its fields alone may not cross threads.
            let Out { at, row, .. } = { out };
            let columns = task * FEW_COLUMNS..((task + 1) * FEW_COLUMNS).min(self.n);
            vector(
                #[inline(always)]
                || {
                    for column in columns {
                        let b = &self.b.values[column * self.b.column..][..self.k];
                        for i in 0..self.m {
                            let a = &self.a.values[i * self.a.row..][..self.k];
                            let value = self.scale * dot(a, b);
                            // SAFETY: the place is inside the result, and this column is this task's.
                            unsafe {
                                let c = at.add(i * row + column);
                                *c = if add { *c + value } else { value };
                            }
                        }
                    }
                },
            );
        };
        let tasks = self.n.div_ceil(FEW_COLUMNS);
        if parallel && tasks > 1 {
            (0..tasks).into_par_iter().for_each(task);
        } else {
            (0..tasks).for_each(task);
        }
    }

    /// All tiles of `count` columns of the result.
    fn tiles(
        &self,
        kernel: &Kernel,
        (a, b): (&[Line], &[Line]),
        (out, count): (Out, usize),
        add: bool,
        parallel: bool,
    ) {
        let (rows, columns) = (
            self.m.div_ceil(kernel.rows).div_ceil(TASK_A),
            count.div_ceil(kernel.columns).div_ceil(TASK_B),
        );
        let task = |task: usize| {
            let tile = Tile {
                m: self.m,
                n: count,
                depth: kernel.depth(self.k),
                panels_a: (task % rows) * TASK_A,
                panels_b: (task / rows) * TASK_B,
                scale: self.scale,
                add,
            };
            tile.compute(kernel, a, b, out);
        };
        if parallel && rows * columns > 1 {
            (0..rows * columns).into_par_iter().for_each(task);
        } else {
            (0..rows * columns).for_each(task);
        }
    }
}

/// One task: up to `TASK_A` by `TASK_B` panels.
struct Tile {
    m: usize,
    n: usize,
    /// Packed values of the inner dimension.
    depth: usize,
    panels_a: usize,
    panels_b: usize,
    scale: f32,
    add: bool,
}

impl Tile {
    #[expect(unsafe_code, reason = "register kernels take addresses of panels")]
    fn compute(&self, kernel: &Kernel, a: &[Line], b: &[Line], out: Out) {
        let Out { at: c, row, .. } = out;
        let (height, width) = (kernel.rows, kernel.columns);
        let last_a = (self.panels_a + TASK_A).min(self.m.div_ceil(height));
        let last_b = (self.panels_b + TASK_B).min(self.n.div_ceil(width));
        let mut edge = [0.0f32; kernel::LARGEST];
        for from in (0..self.depth).step_by(DEPTH) {
            let depth = DEPTH.min(self.depth - from);
            let add = self.add || from > 0;
            for panel_b in self.panels_b..last_b {
                let columns = width.min(self.n - panel_b * width);
                for panel_a in self.panels_a..last_a {
                    let rows = height.min(self.m - panel_a * height);
                    let whole = rows == height && columns == width;
                    let (at_a, at_b) = (
                        (panel_a * self.depth + from) * height,
                        (panel_b * self.depth + from) * width,
                    );
                    // SAFETY: panel p of an operand holds `depth · height` (or width) values from
                    // `p · depth · height` on, as `pack` made it; a whole tile lies inside the
                    // result, another one is computed in `edge`, its valid part copied there and back.
                    unsafe {
                        let (a, b) = (
                            a.as_ptr().cast::<u32>().add(at_a),
                            b.as_ptr().cast::<u32>().add(at_b),
                        );
                        let c = c.add(panel_a * height * row + panel_b * width);
                        if whole {
                            (kernel.run)(depth, a, b, c, row, self.scale, add);
                            continue;
                        }
                        // The same sums as in a whole tile: a row's bits do not depend on its place.
                        if add {
                            for i in 0..rows {
                                let from = c.add(i * row).cast_const();
                                let to = edge.as_mut_ptr().add(i * width);
                                std::ptr::copy_nonoverlapping(from, to, columns);
                            }
                        }
                        (kernel.run)(depth, a, b, edge.as_mut_ptr(), width, self.scale, add);
                        for i in 0..rows {
                            let from = edge.as_ptr().add(i * width);
                            std::ptr::copy_nonoverlapping(from, c.add(i * row), columns);
                        }
                    }
                }
            }
        }
    }
}
