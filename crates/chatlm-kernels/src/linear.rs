//! `y = x·Wᵀ` with the weight as it lies on disk, `(out, in)`: neither the product nor its
//! backward makes a transposed copy.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use gemm::{Parallelism, gemm};

use crate::plain;
use crate::rows::{fused, slice, with_slice};

/// Row-major `c (m, n) = a (m, k) · b (k, n)`, each with its row and column stride.
struct Product<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: (&'a [f32], usize, usize),
    b: (&'a [f32], usize, usize),
}

#[expect(unsafe_code, reason = "gemm takes pointers and strides")]
fn product(p: &Product<'_>) -> Vec<f32> {
    let mut c = vec![0.0f32; p.m * p.n];
    if p.m * p.n * p.k == 0 {
        return c;
    }
    let last = |rows: usize, columns: usize, (_, row, column): (&[f32], usize, usize)| {
        (rows - 1) * row + (columns - 1) * column
    };
    assert!(last(p.m, p.k, p.a) < p.a.0.len() && last(p.k, p.n, p.b) < p.b.0.len());
    let threads = rayon::current_num_threads();
    let parallelism =
        if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: the assertion holds every index of a and b inside their slices, c is m·n long, and
    // nothing else refers to c.
    unsafe {
        gemm(
            p.m, p.n, p.k,
            c.as_mut_ptr(), 1, p.n as isize, false,
            p.a.0.as_ptr(), p.a.2 as isize, p.a.1 as isize,
            p.b.0.as_ptr(), p.b.2 as isize, p.b.1 as isize,
            0.0, 1.0, false, false, false, parallelism,
        );
    }
    c
}

struct Linear;

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
        let rows = x.len() / inner.max(1);
        let y = product(&Product { m: rows, n: out, k: inner, a: (x, inner, 1), b: (weight, 1, inner) });
        let mut dims = l1.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = out;
        }
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }

    /// `dx = dy·W`, `dW = dyᵀ·x`.
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (out, inner) = weight.dims2()?;
        let rows = x.elem_count() / inner.max(1);
        let dx = if x.track_op() {
            let dx = with_slice(grad, |g| {
                with_slice(weight, |w| {
                    Ok(product(&Product { m: rows, n: inner, k: out, a: (g, out, 1), b: (w, inner, 1) }))
                })
            })?;
            Some(Tensor::from_vec(dx, x.shape(), x.device())?)
        } else {
            None
        };
        let dw = if weight.track_op() {
            let dw = with_slice(grad, |g| {
                with_slice(x, |x| {
                    Ok(product(&Product { m: out, n: inner, k: rows, a: (g, 1, out), b: (x, inner, 1) }))
                })
            })?;
            Some(Tensor::from_vec(dw, weight.shape(), weight.device())?)
        } else {
            None
        };
        Ok((dx, dw))
    }
}

/// `x (…, in)` times the transpose of `weight (out, in)`.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if fused(&[x, weight]) {
        x.contiguous()?.apply_op2(&weight.contiguous()?, Linear)
    } else {
        plain::linear(x, weight)
    }
}
