use candle_core::{DType, Device, Result, Tensor, bail};

use super::device::{Session, element};
use crate::embedding::Embedding;

/// Rows `ids` of `table (v, d)`, as `(ids, d)`.
pub fn embedding(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (height, width) = table.dims2()?;
    let on = Session::new(table)?;
    let out = on.empty((ids.len(), width), table.dtype())?;
    let op = Embedding {
        element: element(table.dtype())?,
        height,
        width,
        ids,
    };
    op.gather(&on, on.memory(table)?, on.memory(&out)?)?;
    Ok(out)
}

/// The table's gradient in f32 (height, d) from that of the rows, `gradient (ids, d)`. Rows are added up
/// in their order, without atomics.
pub fn embedding_backward(gradient: &Tensor, ids: &[u32], height: usize) -> Result<Tensor> {
    let (rows, width) = gradient.dims2()?;
    if rows != ids.len() {
        bail!("a gradient of {rows} rows for {} ids", ids.len());
    }
    let Device::Cuda(_) = gradient.device() else {
        bail!("a kernel for NVIDIA GPUs on {:?}", gradient.device())
    };
    let on = Session::new(gradient)?;
    let table = Tensor::zeros((height, width), DType::F32, gradient.device())?;
    let op = Embedding {
        element: element(gradient.dtype())?,
        height,
        width,
        ids,
    };
    op.scatter(&on, on.memory(gradient)?, on.memory(&table)?, false)?;
    Ok(table)
}
