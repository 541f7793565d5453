//! Dropout whose mask is a pure function of a row's key, the place in the network and the place in
//! the row: nothing to save, and neither threads nor padding nor neighbours change it.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use chatlm_job::mix;

use crate::rows::{for_rows, slice, with_slice};

/// One key a batch row, and the share of values to drop.
#[derive(Debug, Clone)]
pub struct DropoutKeys {
    pub rows: Vec<u64>,
    /// In `[0, 1)`.
    pub rate: f64,
}

struct Dropout {
    /// One key a batch row, already mixed with the site.
    keys: Vec<u64>,
    rate: f64,
    dims: Vec<usize>,
}

/// SplitMix64's finisher.
#[inline]
fn hash(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Dropout {
    /// `out = x` where kept, scaled by `1 / (1 − rate)`, else 0. Lines are runs of the last
    /// dimension; a line's place is the product of its indices' digits, so that padding another
    /// dimension moves nothing.
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let width = self.dims.last().copied().unwrap_or(1);
        let lines_a_row: usize = self.dims[1..self.dims.len() - 1].iter().product();
        let threshold = (self.rate * 65_536.0).round() as u64;
        let scale = (1.0 / (1.0 - threshold as f64 / 65_536.0)) as f32;
        let inner = &self.dims[1..self.dims.len() - 1];
        let mut out = vec![0.0f32; x.len()];
        for_rows(&mut out, width, |line, out| {
            let (row, mut rest) = (line / lines_a_row.max(1), line % lines_a_row.max(1));
            let mut key = self.keys[row];
            for &size in inner.iter().rev() {
                key = mix(key, (rest % size) as u64);
                rest /= size;
            }
            let x = &x[line * width..(line + 1) * width];
            // Sixteen bits a value: four values a hash.
            for (four, (out, x)) in out.chunks_mut(4).zip(x.chunks(4)).enumerate() {
                let bits = hash(key.wrapping_add((four as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
                for (place, (out, x)) in out.iter_mut().zip(x).enumerate() {
                    let kept = (bits >> (16 * place)) & 0xFFFF >= threshold;
                    *out = if kept { x * scale } else { 0.0 };
                }
            }
        });
        out
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(slice(storage, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let values = with_slice(grad, |grad| Ok(self.apply(grad)))?;
        Ok(Some(Tensor::from_vec(values, arg.shape(), arg.device())?))
    }
}

/// Drops values of `x (batch, …)` and scales the rest. `site` names the place in the network.
pub fn dropout(x: &Tensor, keys: &DropoutKeys, site: u64) -> Result<Tensor> {
    if keys.rate <= 0.0 {
        return Ok(x.clone());
    }
    if x.rank() < 2 || x.dim(0)? != keys.rows.len() {
        bail!("dropout wants one key a row: {} keys for {:?}", keys.rows.len(), x.dims());
    }
    let op = Dropout {
        keys: keys.rows.iter().map(|&key| mix(key, site)).collect(),
        rate: keys.rate,
        dims: x.dims().to_vec(),
    };
    if x.device().is_cpu() {
        x.contiguous()?.apply_op1(op)
    } else {
        // The mask is made on the processor, so that every device drops the same values.
        let mask = Tensor::from_vec(op.apply(&vec![1.0; x.elem_count()]), x.shape(), x.device())?;
        x * mask.to_dtype(x.dtype())?
    }
}
