//! `y = scale · x·Wᵀ` with the weight as it lies on disk, `(out, in)`: neither the product nor its
//! backward makes a transposed copy.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::plain;
use crate::product::{Matrix, Product};
use crate::rows::{fused, slice, with_slice};

struct Linear {
    scale: f32,
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(s1, l1)?, slice(s2, l2)?);
        let (out, inner) = l2.shape().dims2()?;
        let product = Product {
            m: x.len() / inner.max(1),
            n: out,
            k: inner,
            a: Matrix::rows(x, inner),
            b: Matrix::columns(weight, inner),
            scale: self.scale,
        };
        let mut dims = l1.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = out;
        }
        Ok((CpuStorage::F32(product.new_matrix()), Shape::from(dims)))
    }

    /// `dx = scale · dy·W`, `dW = scale · dyᵀ·x`.
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (out, inner) = weight.dims2()?;
        let rows = x.elem_count() / inner.max(1);
        let scale = self.scale;
        with_slice(grad, |g| {
            let dx = if x.track_op() {
                let dx = with_slice(weight, |w| {
                    let (a, b) = (Matrix::rows(g, out), Matrix::rows(w, inner));
                    Ok(Product {
                        m: rows,
                        n: inner,
                        k: out,
                        a,
                        b,
                        scale,
                    }
                    .new_matrix())
                })?;
                Some(Tensor::from_vec(dx, x.shape(), x.device())?)
            } else {
                None
            };
            let dw = if weight.track_op() {
                let dw = with_slice(x, |x| {
                    let (a, b) = (Matrix::columns(g, out), Matrix::rows(x, inner));
                    Ok(Product {
                        m: out,
                        n: inner,
                        k: rows,
                        a,
                        b,
                        scale,
                    }
                    .new_matrix())
                })?;
                Some(Tensor::from_vec(dw, weight.shape(), weight.device())?)
            } else {
                None
            };
            Ok((dx, dw))
        })
    }
}

/// `x (…, in)` times the transpose of `weight (out, in)`.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    linear_scaled(x, weight, 1.0)
}

/// The same times a number.
pub fn linear_scaled(x: &Tensor, weight: &Tensor, scale: f64) -> Result<Tensor> {
    if fused(&[x, weight]) {
        x.contiguous()?.apply_op2(
            &weight.contiguous()?,
            Linear {
                scale: scale as f32,
            },
        )
    } else {
        plain::linear(x, weight)? * scale
    }
}
