//! What the kernels share: contiguous f32 slices, and work spread over rows.

use std::cell::RefCell;
use std::ops::Deref;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::has_kernels;
use crate::math::vector;

/// Whether the kernels of this crate apply; otherwise the plain twin runs.
pub(crate) fn fused(tensors: &[&Tensor]) -> bool {
    tensors
        .iter()
        .all(|t| t.dtype() == DType::F32 && has_kernels(t.device()))
}

/// The values of a contiguous tensor on the processor.
struct Values<G> {
    storage: G,
    from: usize,
    to: usize,
}

impl<G: Deref<Target = Storage>> Deref for Values<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.from..self.to],
            // `read` makes no other.
            _ => &[],
        }
    }
}

/// Reads a contiguous f32 tensor of the processor.
pub(crate) fn read(tensor: &Tensor) -> Result<impl Deref<Target = [f32]> + '_> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F32(_)), Some((from, to))) =
        (&*storage, layout.contiguous_offsets())
    else {
        bail!("a kernel wants contiguous f32 values on the processor")
    };
    Ok(Values { storage, from, to })
}

struct Write<F>(RefCell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Write<F> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((from, to))) = (storage, layout.contiguous_offsets())
        else {
            bail!("a kernel wants contiguous f32 values on the processor")
        };
        if let Some(work) = self.0.take() {
            work(&mut values[from..to]);
        }
        Ok(())
    }
}

/// Changes the values of a contiguous f32 tensor of the processor in place.
pub fn write<R>(tensor: &Tensor, work: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    let mut result = None;
    tensor.inplace_op1(&Write(RefCell::new(Some(|values: &mut [f32]| {
        result = Some(work(values));
    }))))?;
    match result {
        Some(result) => Ok(result),
        None => bail!("a tensor was not written"),
    }
}

/// Zeros; attention leaves them where a query sees nothing.
pub(crate) fn zeros(count: usize) -> Vec<f32> {
    vec![0.0; count]
}

/// Rows worth a task of their own: about 16 thousand values.
pub(crate) fn rows_a_task(width: usize) -> usize {
    (16_384 / width.max(1)).max(1)
}

/// Calls `work(row, out)` for every row of `width` values, in parallel and in vector code.
pub(crate) fn for_rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if width == 0 {
        return;
    }
    let task = rows_a_task(width);
    out.par_chunks_mut(task * width)
        .enumerate()
        .for_each(|(chunk, rows)| {
            vector(
                #[inline(always)]
                || {
                    for (row, out) in rows.chunks_mut(width).enumerate() {
                        work(chunk * task + row, out);
                    }
                },
            );
        });
}

/// A new tensor like `like`, whose rows (of the last dimension) `work(row, out)` writes.
pub(crate) fn new_rows(like: &Tensor, work: impl Fn(usize, &mut [f32]) + Sync) -> Result<Tensor> {
    let mut out = zeros(like.elem_count());
    for_rows(&mut out, width(like), work);
    Tensor::from_vec(out, like.shape(), like.device())
}

/// Values in the last dimension.
pub(crate) fn width(tensor: &Tensor) -> usize {
    tensor.dims().last().copied().unwrap_or(1)
}
