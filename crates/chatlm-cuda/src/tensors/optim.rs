use candle_core::{DType, Result, Tensor, bail};

use super::device::{Session, element};
use crate::adafactor::{self, Adafactor, Factors};
use crate::adamw::{self, AdamW};
use crate::sums;

/// `Σ x²` of each tensor, in f64: finite exactly where all its values are. Waits once.
pub fn squared_norms(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    let Some(first) = tensors.first() else {
        return Ok(Vec::new());
    };
    let on = Session::new(first)?;
    let out = on.empty(tensors.len(), DType::F64)?;
    for (index, tensor) in tensors.iter().enumerate() {
        let (x, to) = (on.memory(tensor)?, on.memory(&out)?);
        sums::squared_norm(
            &on,
            element(tensor.dtype())?,
            x,
            tensor.elem_count(),
            to,
            index as u32,
        )?;
    }
    out.to_vec1()
}

/// Updates `weight` and its moments, all f32, IN PLACE, from `scale · gradient` (f32, f16 or bf16) at
/// `step`, counted from 1 (Loshchilov and Hutter 2019).
pub fn adamw(
    rule: AdamW,
    weight: &Tensor,
    gradient: &Tensor,
    (first, second): (&Tensor, &Tensor),
    (scale, learning_rate): (f32, f64),
    step: u64,
) -> Result<()> {
    let count = weight.elem_count();
    if [gradient, first, second]
        .iter()
        .any(|other| other.elem_count() != count)
    {
        bail!(
            "a gradient or moments that are not of the weight's {:?}",
            weight.dims()
        );
    }
    let on = Session::new(weight)?;
    let of = adamw::Weight {
        count,
        weight: on.of(weight, DType::F32)?,
        gradient: on.memory(gradient)?,
        element: element(gradient.dtype())?,
        first: on.of(first, DType::F32)?,
        second: on.of(second, DType::F32)?,
    };
    rule.update(&on, &of, scale, learning_rate, step)
}

/// Adafactor's moments of a weight, f32.
#[derive(Debug, Clone)]
pub enum AdafactorMoments {
    /// Of a matrix: (rows) and (columns).
    Matrix { row: Tensor, column: Tensor },
    /// Of all else: the weight's shape.
    Whole(Tensor),
}

/// Updates `weight` and its moments, all f32, IN PLACE, from `scale · gradient` (f32, f16 or bf16) at
/// `step`, counted from 1 (Shazeer and Stern 2018).
pub fn adafactor(
    rule: Adafactor,
    weight: &Tensor,
    gradient: &Tensor,
    moments: &AdafactorMoments,
    (scale, learning_rate): (f32, f64),
    step: u64,
) -> Result<()> {
    if gradient.elem_count() != weight.elem_count() {
        bail!(
            "a gradient of {:?} for {:?}",
            gradient.dims(),
            weight.dims()
        );
    }
    let on = Session::new(weight)?;
    let factors = match moments {
        AdafactorMoments::Matrix { row, column } => {
            let (rows, columns) = weight.dims2()?;
            Factors::Matrix {
                rows,
                columns,
                row: on.of(row, DType::F32)?,
                column: on.of(column, DType::F32)?,
            }
        }
        AdafactorMoments::Whole(second) => Factors::Whole {
            count: weight.elem_count(),
            second: on.of(second, DType::F32)?,
        },
    };
    let of = adafactor::Weight {
        weight: on.of(weight, DType::F32)?,
        gradient: on.memory(gradient)?,
        element: element(gradient.dtype())?,
        factors,
    };
    rule.update(&on, &of, scale, learning_rate, step)
}
