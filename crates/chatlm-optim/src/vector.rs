//! The widest vectors that the processor has, and sums in an order that depends on nothing.

use pulp::Arch;

/// Values of a task: fixed, so that threads never change a sum.
pub(crate) const TASK: usize = 1 << 15;
/// Values of a buffer that stays in the nearest cache.
pub(crate) const BUFFER: usize = 256;
/// Lanes of a sum: one vector of f64 in AVX-512.
const LANES: usize = 8;

/// Runs `work`, compiled once for each vector width, on the widest that the processor has. Nothing
/// here depends on the width: lanes are added in the same order, products are never fused.
#[inline(always)]
pub(crate) fn vector<R>(work: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(work)
}

/// A sum in lanes, which are added in order at the end.
#[derive(Clone, Copy)]
pub(crate) struct Lanes([f64; LANES]);

impl Lanes {
    pub(crate) const ZERO: Self = Self([0.0; LANES]);

    /// Adds `term` of each value; value `i` goes to lane `i mod LANES`.
    #[inline(always)]
    pub(crate) fn add(&mut self, values: &[f32], term: impl Fn(f64) -> f64) {
        let mut lanes = self.0;
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                lanes[lane] += term(f64::from(chunk[lane]));
            }
        }
        for (lane, &value) in lanes.iter_mut().zip(rest) {
            *lane += term(f64::from(value));
        }
        self.0 = lanes;
    }

    #[inline(always)]
    pub(crate) fn sum(self) -> f64 {
        self.0.iter().sum()
    }
}

/// `x²`, for [`Lanes::add`]: no f32 overflows.
#[inline(always)]
pub(crate) fn square(x: f64) -> f64 {
    x * x
}
