//! Matrix products over slices, by the gemm crate: any strides in, rows out.

use gemm::{Parallelism, gemm};

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
}

impl Product<'_> {
    /// The product as a new row-major matrix, computed by all threads.
    #[expect(unsafe_code, reason = "the result is not zeroed before it is written")]
    pub(crate) fn new_matrix(&self) -> Vec<f32> {
        if self.m * self.n * self.k == 0 {
            return vec![0.0; self.m * self.n];
        }
        let mut c: Vec<f32> = Vec::with_capacity(self.m * self.n);
        // SAFETY: c has room for m rows of n values, and gemm writes each of them before `set_len`
        // makes them part of the vector.
        unsafe {
            self.write(c.as_mut_ptr(), self.n, false, true);
            c.set_len(self.m * self.n);
        }
        c
    }

    /// Writes the product to `c`, whose rows are `row` values apart, or adds it.
    #[expect(unsafe_code, reason = "gemm takes pointers and strides")]
    pub(crate) fn write_to(&self, c: &mut [f32], row: usize, add: bool, parallel: bool) {
        if self.m * self.n == 0 {
            return;
        }
        if self.k == 0 {
            if !add {
                c.chunks_mut(row)
                    .take(self.m)
                    .for_each(|c| c[..self.n].fill(0.0));
            }
            return;
        }
        assert!(row >= self.n && (self.m - 1) * row + self.n <= c.len());
        // SAFETY: the assertion holds every row of the result inside c, which nothing else refers to.
        unsafe { self.write(c.as_mut_ptr(), row, add, parallel) }
    }

    /// # Safety
    /// `c` must be valid for writes (and, to add, reads) of m rows of n values, `row` values apart,
    /// and m, n and k must not be 0.
    #[expect(unsafe_code, reason = "gemm takes pointers and strides")]
    unsafe fn write(&self, c: *mut f32, row: usize, add: bool, parallel: bool) {
        assert!(self.a.holds(self.m, self.k) && self.b.holds(self.k, self.n));
        let threads = if parallel {
            rayon::current_num_threads()
        } else {
            1
        };
        let parallelism = if threads > 1 {
            Parallelism::Rayon(threads)
        } else {
            Parallelism::None
        };
        let (a, b) = (self.a, self.b);
        let kept = if add { 1.0 } else { 0.0 };
        // SAFETY: the assertion holds every index of a and b inside their slices; c is the caller's.
        unsafe {
            gemm(
                self.m,
                self.n,
                self.k,
                c,
                1,
                row as isize,
                add,
                a.values.as_ptr(),
                a.column as isize,
                a.row as isize,
                b.values.as_ptr(),
                b.column as isize,
                b.row as isize,
                kept,
                self.scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}
