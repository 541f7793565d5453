//! Ids of a batch's rows, laid end to end without padding.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use chatlm_job::{Error, Result};
use chatlm_kernels::Rows;

use crate::tensor_error;

/// Rows of ids and where they are.
#[derive(Debug, Clone)]
pub struct Sequences {
    /// (places) u32
    pub ids: Tensor,
    pub rows: Arc<Rows>,
}

impl Sequences {
    pub fn new<R: AsRef<[u32]>>(rows: &[R], device: &Device) -> Result<Self> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.as_ref().len()).collect();
        let ids: Vec<u32> = rows
            .iter()
            .flat_map(|row| row.as_ref().iter().copied())
            .collect();
        let count = ids.len();
        Ok(Self {
            ids: Tensor::from_vec(ids, count, device).map_err(tensor_error)?,
            rows: Arc::new(Rows::new(&lengths)),
        })
    }

    /// From padded rows `ids (b, s)` as other programs have them; `mask (b, s)` is 1 where real, which
    /// must be the beginning of each row.
    pub fn padded(ids: &Tensor, mask: &Tensor) -> Result<Self> {
        let read = |t: &Tensor| t.to_vec2::<u32>().map_err(tensor_error);
        let mask = mask
            .to_dtype(candle_core::DType::U32)
            .map_err(tensor_error)?;
        let mut rows = Vec::new();
        for (mut ids, mask) in read(ids)?.into_iter().zip(read(&mask)?) {
            let real = mask.iter().take_while(|&&m| m != 0).count();
            if mask[real..].iter().any(|&m| m != 0) {
                return Err(Error::internal("a mask with a hole: rows end in padding"));
            }
            ids.truncate(real);
            rows.push(ids);
        }
        Self::new(&rows, ids.device())
    }
}
