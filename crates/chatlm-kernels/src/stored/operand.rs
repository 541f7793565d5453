//! The rows that a weight is multiplied by, in the form that its kernel reads.

use rayon::prelude::*;

use super::StoredKind;
use crate::cpu::Cpu;
use crate::math::{bf16, vector};

/// A form of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    F32,
    /// Rounded to bf16, kept as f32.
    Rounded,
    Bf16,
    Int8,
}

impl Form {
    pub(super) fn of(cpu: Cpu, kind: StoredKind) -> Self {
        match kind {
            StoredKind::F32 | StoredKind::F16 => Self::F32,
            StoredKind::Bf16 if cpu >= Cpu::Avx512Bf16 => Self::Bf16,
            StoredKind::Bf16 => Self::Rounded,
            StoredKind::Int8 => Self::Int8,
        }
    }
}

/// Values worth another thread.
const WORTH: usize = 1 << 15;

pub(super) enum Operand<'a> {
    F32(&'a [f32]),
    Rounded(Vec<f32>),
    Bf16(Vec<u16>),
    Int8 {
        values: Vec<i8>,
        /// One a row.
        scales: Vec<f32>,
        /// The values' sum, one a row.
        sums: Vec<i32>,
    },
}

impl Operand<'_> {
    /// The first row's address, and the bytes of a row.
    pub(super) fn bytes(&self, inner: usize) -> (*const u8, usize) {
        match self {
            Self::F32(values) => (values.as_ptr().cast(), inner * 4),
            Self::Rounded(values) => (values.as_ptr().cast(), inner * 4),
            Self::Bf16(values) => (values.as_ptr().cast(), inner * 2),
            Self::Int8 { values, .. } => (values.as_ptr().cast(), inner),
        }
    }
}

/// Rows of f32, and the forms that were asked for.
pub(super) struct Input<'a> {
    x: &'a [f32],
    pub(super) rows: usize,
    inner: usize,
    forms: Vec<(Form, Operand<'a>)>,
}

impl<'a> Input<'a> {
    pub(super) fn new(x: &'a [f32], rows: usize, inner: usize) -> Self {
        Self {
            x,
            rows,
            inner,
            forms: Vec::with_capacity(1),
        }
    }

    pub(super) fn form(&self, form: Form) -> Option<&Operand<'a>> {
        let found = self.forms.iter().find(|(name, _)| *name == form);
        found.map(|(_, operand)| operand)
    }

    pub(super) fn prepare(&mut self, form: Form) {
        if self.form(form).is_none() {
            let operand = self.make(form);
            self.forms.push((form, operand));
        }
    }

    fn make(&self, form: Form) -> Operand<'a> {
        match form {
            Form::F32 => Operand::F32(self.x),
            Form::Rounded => {
                let mut values = vec![0.0; self.x.len()];
                self.convert(&mut values, |x, to| {
                    for (to, &x) in to.iter_mut().zip(x) {
                        *to = f32::from_bits(u32::from(bf16(x)) << 16);
                    }
                });
                Operand::Rounded(values)
            }
            Form::Bf16 => {
                let mut values = vec![0; self.x.len()];
                self.convert(&mut values, |x, to| {
                    for (to, &x) in to.iter_mut().zip(x) {
                        *to = bf16(x);
                    }
                });
                Operand::Bf16(values)
            }
            Form::Int8 => {
                let mut values = vec![0i8; self.x.len()];
                let rows = self.convert(&mut values, round_row);
                let (scales, sums) = rows.into_iter().unzip();
                Operand::Int8 {
                    values,
                    scales,
                    sums,
                }
            }
        }
    }

    /// Each row by itself, in vector code, by all threads where there are many.
    fn convert<T: Send, R: Send>(
        &self,
        to: &mut [T],
        row: impl Fn(&[f32], &mut [T]) -> R + Sync,
    ) -> Vec<R> {
        let width = self.inner.max(1);
        let work = |(x, to): (&[f32], &mut [T])| {
            vector(
                #[inline(always)]
                || row(x, to),
            )
        };
        if self.x.len() < WORTH {
            self.x
                .chunks(width)
                .zip(to.chunks_mut(width))
                .map(work)
                .collect()
        } else {
            let rows = self.x.par_chunks(width).zip(to.par_chunks_mut(width));
            rows.with_min_len(8).map(work).collect()
        }
    }
}

/// Answers the scale and the sum of the rounded values. A row that is not finite gets a scale that is
/// not.
#[inline(always)]
fn round_row(x: &[f32], to: &mut [i8]) -> (f32, i32) {
    /// 1.5·2²³: adding it rounds to a whole number, in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let mut lanes = [0u32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for lane in 0..16 {
            // Of numbers without sign, the order of their bits is theirs; not finite ones are largest.
            lanes[lane] = lanes[lane].max(chunk[lane].to_bits() & 0x7fff_ffff);
        }
    }
    let rest = rest.iter().map(|v| v.to_bits() & 0x7fff_ffff).max();
    let largest = lanes.into_iter().chain(rest).max().unwrap_or(0);
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        return (f32::NAN, 0);
    }
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut sum = 0i32;
    for (to, &x) in to.iter_mut().zip(x) {
        let value = ((x * inverse + MAGIC).to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
        *to = value as i8;
        sum += value;
    }
    (largest / 127.0, sum)
}
