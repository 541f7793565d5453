//! What the kernels share: contiguous f32 slices, and work spread over rows.

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, bail};
use rayon::prelude::*;

use crate::math::vector;

/// Whether the kernels of this crate apply; otherwise the plain twin runs.
pub(crate) fn fused(tensors: &[&Tensor]) -> bool {
    tensors
        .iter()
        .all(|t| t.device().is_cpu() && t.dtype() == DType::F32)
}

/// The values of a contiguous tensor.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&values[from..to]),
        None => bail!("a kernel was given a tensor that is not contiguous"),
    }
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

/// Calls `work` with the values of a contiguous CPU tensor.
pub(crate) fn with_slice<R>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => work(slice(storage, layout)?),
        _ => bail!("a processor kernel was given a tensor of another device"),
    }
}
