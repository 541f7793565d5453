//! Dropout whose mask is a pure function of a row's key, the place in the network and the place in
//! the row: nothing to save, and neither threads nor padding nor neighbours change it. Alone, or in
//! one pass with what stands beside it: the residual sum, the rectifier.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use chatlm_job::mix;

use crate::rows::{for_rows, fused, slice, with_slice};

/// One key a batch row, and the share of values to drop.
#[derive(Debug, Clone)]
pub struct DropoutKeys {
    pub rows: Vec<u64>,
    /// In `[0, 1)`.
    pub rate: f64,
}

/// What a line of values, a run of the last dimension, keeps.
#[derive(Clone, Copy)]
pub(crate) struct LineMask {
    first: u32,
    second: u32,
    threshold: u32,
    scale: f32,
}

impl LineMask {
    /// `1 / (1 − rate)` where the value at `place` is kept, else 0. The hash is "lowbias32"
    /// (C. Wellons, "Prospecting for hash functions"), keyed twice.
    #[inline(always)]
    pub(crate) fn factor(self, place: usize) -> f32 {
        let mut h = (place as u32).wrapping_add(self.first);
        h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
        h = (h ^ (h >> 15))
            .wrapping_add(self.second)
            .wrapping_mul(0x846C_A68B);
        h ^= h >> 16;
        if h >= self.threshold { self.scale } else { 0.0 }
    }

    /// `out = factor · x`.
    #[inline(always)]
    pub(crate) fn apply(self, x: &[f32], out: &mut [f32]) {
        let count = out.len().min(x.len());
        let (x, out) = (&x[..count], &mut out[..count]);
        for place in 0..count {
            out[place] = x[place] * self.factor(place);
        }
    }
}

/// The mask of a tensor `(batch, …)`.
pub(crate) struct Mask {
    /// One key a batch row, already mixed with the site.
    keys: Vec<u64>,
    threshold: u32,
    scale: f32,
    /// Dimensions between the batch and the last.
    inner: Vec<usize>,
    lines_a_row: usize,
}

impl Mask {
    pub(crate) fn new(keys: &DropoutKeys, site: u64, dims: &[usize]) -> Result<Self> {
        if dims.len() < 2 || dims[0] != keys.rows.len() {
            bail!(
                "dropout wants one key a row: {} keys for {dims:?}",
                keys.rows.len()
            );
        }
        let threshold = (keys.rate * 4_294_967_296.0)
            .round()
            .clamp(0.0, 4_294_967_295.0);
        let inner = dims[1..dims.len() - 1].to_vec();
        Ok(Self {
            keys: keys.rows.iter().map(|&key| mix(key, site)).collect(),
            threshold: threshold as u32,
            scale: (1.0 / (1.0 - threshold / 4_294_967_296.0)) as f32,
            lines_a_row: inner.iter().product::<usize>().max(1),
            inner,
        })
    }

    /// A line's key comes from the digits of its place, so that padding of a dimension moves nothing.
    pub(crate) fn line(&self, line: usize) -> LineMask {
        let (row, mut rest) = (line / self.lines_a_row, line % self.lines_a_row);
        let mut key = self.keys[row];
        for &size in self.inner.iter().rev() {
            key = mix(key, (rest % size) as u64);
            rest /= size;
        }
        LineMask {
            first: key as u32,
            second: (key >> 32) as u32,
            threshold: self.threshold,
            scale: self.scale,
        }
    }

    fn apply(&self, x: &[f32], width: usize) -> Vec<f32> {
        let mut out = vec![0.0f32; x.len()];
        for_rows(
            &mut out,
            width,
            #[inline(always)]
            |line, out| {
                self.line(line)
                    .apply(&x[line * width..(line + 1) * width], out);
            },
        );
        out
    }
}

fn width(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1)
}

struct Dropout(Mask);

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.0.apply(slice(storage, layout)?, width(layout));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = width(arg.layout());
        let values = with_slice(grad, |grad| Ok(self.0.apply(grad, width)))?;
        Ok(Some(Tensor::from_vec(values, arg.shape(), arg.device())?))
    }
}

/// `x + dropout(y)`.
struct Residual(Option<Mask>);

impl CustomOp2 for Residual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y, width) = (slice(s1, l1)?, slice(s2, l2)?, width(l1));
        let mut out = vec![0.0f32; x.len()];
        for_rows(
            &mut out,
            width,
            #[inline(always)]
            |line, out| {
                let at = line * width..(line + 1) * width;
                let (x, y) = (&x[at.clone()], &y[at]);
                match &self.0 {
                    Some(mask) => mask.line(line).apply(y, out),
                    None => out.copy_from_slice(y),
                }
                for (out, x) in out.iter_mut().zip(x) {
                    *out += x;
                }
            },
        );
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        y: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = match &self.0 {
            Some(mask) if y.track_op() => {
                let width = width(y.layout());
                let values = with_slice(grad, |grad| Ok(mask.apply(grad, width)))?;
                Some(Tensor::from_vec(values, y.shape(), y.device())?)
            }
            Some(_) => None,
            None => Some(grad.clone()),
        };
        Ok((Some(grad.clone()), dy))
    }
}

/// `dropout(max(x, 0))`; the backward reads the mask off the result.
struct Rectifier(Option<Mask>);

impl CustomOp1 for Rectifier {
    fn name(&self) -> &'static str {
        "rectifier"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, width) = (slice(storage, layout)?, width(layout));
        let mut out = vec![0.0f32; x.len()];
        for_rows(
            &mut out,
            width,
            #[inline(always)]
            |line, out| {
                let x = &x[line * width..(line + 1) * width];
                match &self.0 {
                    Some(mask) => mask.line(line).apply(x, out),
                    None => out.copy_from_slice(x),
                }
                for out in out {
                    // Not `max`, which would hide a NaN.
                    *out = if *out < 0.0 { 0.0 } else { *out };
                }
            },
        );
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (scale, width) = (
            self.0.as_ref().map_or(1.0, |mask| mask.scale),
            width(arg.layout()),
        );
        let values = with_slice(res, |res| {
            with_slice(grad, |grad| {
                let mut out = vec![0.0f32; grad.len()];
                for_rows(
                    &mut out,
                    width,
                    #[inline(always)]
                    |line, out| {
                        let at = line * width..(line + 1) * width;
                        for ((out, res), grad) in
                            out.iter_mut().zip(&res[at.clone()]).zip(&grad[at])
                        {
                            let grad = grad * scale;
                            *out = if *res > 0.0 { grad } else { 0.0 };
                        }
                    },
                );
                Ok(out)
            })
        })?;
        Ok(Some(Tensor::from_vec(values, arg.shape(), arg.device())?))
    }
}

/// Where dropout happens: a row's keys, and the number of the place in the network.
pub type Drop<'a> = Option<(&'a DropoutKeys, u64)>;

pub(crate) fn mask(drop: Drop<'_>, dims: &[usize]) -> Result<Option<Mask>> {
    match drop {
        Some((keys, site)) if keys.rate > 0.0 => Ok(Some(Mask::new(keys, site, dims)?)),
        _ => Ok(None),
    }
}

/// Drops values of `x (batch, …)` and scales the rest. `site` names the place in the network.
pub fn dropout(x: &Tensor, keys: &DropoutKeys, site: u64) -> Result<Tensor> {
    let Some(mask) = mask(Some((keys, site)), x.dims())? else {
        return Ok(x.clone());
    };
    if fused(&[x]) {
        return x.contiguous()?.apply_op1(Dropout(mask));
    }
    // The mask is made on the processor, so that every device drops the same values.
    let values = mask.apply(&vec![1.0; x.elem_count()], width(x.layout()));
    x * Tensor::from_vec(values, x.shape(), x.device())?.to_dtype(x.dtype())?
}

/// `x + dropout(y)`, both `(batch, …)`.
pub fn residual(x: &Tensor, y: &Tensor, drop: Drop<'_>) -> Result<Tensor> {
    if x.dims() != y.dims() {
        bail!("a residual of {:?} for {:?}", y.dims(), x.dims());
    }
    if fused(&[x, y]) {
        return x
            .contiguous()?
            .apply_op2(&y.contiguous()?, Residual(mask(drop, y.dims())?));
    }
    match drop {
        Some((keys, site)) => x + dropout(y, keys, site)?,
        None => x + y,
    }
}

/// `dropout(max(x, 0))` of `x (batch, …)`.
pub fn relu(x: &Tensor, drop: Drop<'_>) -> Result<Tensor> {
    if fused(&[x]) {
        return x.contiguous()?.apply_op1(Rectifier(mask(drop, x.dims())?));
    }
    match drop {
        Some((keys, site)) => dropout(&x.relu()?, keys, site),
        None => x.relu(),
    }
}
