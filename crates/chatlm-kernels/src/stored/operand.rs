//! The rows that a weight is multiplied by, in the form that its kernel reads.

use super::StoredKind;
use crate::cpu::Cpu;
use crate::math::vector;

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
            Form::Rounded => Operand::Rounded(vector(
                #[inline(always)]
                || {
                    let rounded = |&v: &f32| f32::from_bits(u32::from(bf16(v)) << 16);
                    self.x.iter().map(rounded).collect()
                },
            )),
            Form::Bf16 => Operand::Bf16(vector(
                #[inline(always)]
                || self.x.iter().map(|&v| bf16(v)).collect(),
            )),
            Form::Int8 => self.int8(),
        }
    }

    /// Each row divided by its largest value over 127 and rounded.
    fn int8(&self) -> Operand<'a> {
        let mut values = vec![0i8; self.x.len()];
        let (mut scales, mut sums) = (vec![0.0; self.rows], vec![0; self.rows]);
        let rows = self.x.chunks(self.inner.max(1));
        for (row, (x, to)) in rows.zip(values.chunks_mut(self.inner.max(1))).enumerate() {
            (scales[row], sums[row]) = vector(
                #[inline(always)]
                || round_row(x, to),
            );
        }
        Operand::Int8 {
            values,
            scales,
            sums,
        }
    }
}

/// To nearest, ties to even; NaN stays one.
#[inline(always)]
fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    (if value.is_nan() { nan } else { rounded }) as u16
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
