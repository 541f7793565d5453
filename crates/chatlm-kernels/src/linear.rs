//! `y = scale · x·Wᵀ` with the weight as it lies on disk, `(out, in)`: neither the product nor its
//! backward makes a transposed copy, and both gradients are added where they belong.

use candle_core::{Result, Tensor};

use crate::gemm::{Matrix, Precision, Product};
use crate::plain;
use crate::rows::{fused, read, width};
use crate::tape::{Tape, Value, Weight, twin};

/// The product itself: `x (…, in)` by the transpose of `weight (out, in)`.
fn product(x: &Tensor, weight: &Tensor, scale: f32, precision: Precision) -> Result<Tensor> {
    let (out, inner) = weight.dims2()?;
    if width(x) != inner {
        candle_core::bail!("{:?} for a weight of {:?}", x.dims(), weight.dims());
    }
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = out;
    }
    let (values, weight) = (read(x)?, read(weight)?);
    let y = Product {
        m: values.len() / inner.max(1),
        n: out,
        k: inner,
        a: Matrix::rows(&values, inner),
        b: Matrix::columns(&weight, inner),
        scale,
        precision,
    }
    .new_matrix();
    Tensor::from_vec(y, dims, x.device())
}

/// `scale` times `x (…, in)` times the transpose of `weight (out, in)`.
pub fn linear(tape: &Tape, x: &Value, weight: &Weight, scale: f64) -> Result<Value> {
    let precision = tape.precision();
    if precision == Precision::F16 || !fused(&[x.tensor(), weight.tensor()]) {
        return twin(tape, &[x], &[weight], move |x, w| {
            plain::product(&x[0], &w[0], scale, precision)
        });
    }
    let scale = scale as f32;
    let x = x.contiguous()?;
    let y = product(x.tensor(), weight.tensor(), scale, precision)?;
    let tracked = x.tracked() || weight.index().is_some();
    let weight = weight.clone();
    Ok(tape.result(y, tracked, move |backward, gradient| {
        let (out, inner) = weight.tensor().dims2()?;
        let gradient = gradient.contiguous()?;
        let g = read(&gradient)?;
        let rows = g.len() / out.max(1);
        // dW = scale · dyᵀ·x
        if let Some(index) = weight.index() {
            let x = read(x.tensor())?;
            let product = Product {
                m: out,
                n: inner,
                k: rows,
                a: Matrix::columns(&g, out),
                b: Matrix::rows(&x, inner),
                scale,
                precision,
            };
            backward.gradients.write(index, |values, add| {
                product.write_to(values, inner, add, true);
            });
        }
        // dx = scale · dy·W
        backward.accumulate(&x, |values, add| {
            let w = read(weight.tensor())?;
            let product = Product {
                m: rows,
                n: inner,
                k: out,
                a: Matrix::rows(&g, out),
                b: Matrix::rows(&w, inner),
                scale,
                precision,
            };
            product.write_to(values, inner, add, true);
            Ok(())
        })
    }))
}
