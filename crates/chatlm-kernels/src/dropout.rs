//! Dropout whose mask is a pure function of a row's key, the site in the network and the place in
//! the row: nothing to save, and neither threads nor neighbours change it. Alone, or in one pass with
//! what stands beside it: the residual sum, the activations of the feed-forward.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use chatlm_job::mix;

use crate::layout::Rows;
use crate::math::tanh;
use crate::plain;
use crate::rows::{for_rows, fused, new_rows, read, width, zeros};
use crate::tape::{Tape, Value, twin};

/// One key a batch row, and the share of values to drop.
#[derive(Debug, Clone)]
pub struct DropoutKeys {
    pub rows: Vec<u64>,
    /// In `[0, 1)`.
    pub rate: f64,
}

/// Where dropout happens: a row's keys, and the number of the site in the network.
pub type Drop<'a> = Option<(&'a DropoutKeys, u64)>;

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

/// The mask of one site.
#[derive(Clone)]
pub(crate) struct Mask {
    /// One key a batch row, already mixed with the site.
    keys: Vec<u64>,
    threshold: u32,
    pub(crate) scale: f32,
}

impl Mask {
    /// Nothing where nothing is dropped.
    pub(crate) fn new(drop: Drop<'_>, rows: &Rows) -> Result<Option<Self>> {
        let Some((keys, site)) = drop.filter(|(keys, _)| keys.rate > 0.0) else {
            return Ok(None);
        };
        if keys.rows.len() != rows.count() {
            bail!(
                "dropout wants one key a row: {} keys for {} rows",
                keys.rows.len(),
                rows.count()
            );
        }
        let threshold = (keys.rate * 4_294_967_296.0)
            .round()
            .clamp(0.0, 4_294_967_295.0);
        Ok(Some(Self {
            keys: keys.rows.iter().map(|&key| mix(key, site)).collect(),
            threshold: threshold as u32,
            scale: (1.0 / (1.0 - threshold / 4_294_967_296.0)) as f32,
        }))
    }

    /// The same for the kernels of NVIDIA GPUs, which draw the same values.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_cuda(&self) -> chatlm_cuda::Dropout<'_> {
        chatlm_cuda::Dropout {
            keys: &self.keys,
            threshold: self.threshold,
            scale: self.scale,
        }
    }

    fn line(&self, key: u64) -> LineMask {
        LineMask {
            first: key as u32,
            second: (key >> 32) as u32,
            threshold: self.threshold,
            scale: self.scale,
        }
    }

    /// The mask of the hidden values at a place.
    pub(crate) fn place(&self, rows: &Rows, place: usize) -> LineMask {
        let (row, position) = rows.position(place);
        self.line(mix(self.keys[row], position as u64))
    }

    /// The mask of a query's attention to all keys.
    pub(crate) fn query(&self, row: usize, head: usize, query: usize) -> LineMask {
        self.line(mix(mix(self.keys[row], query as u64), head as u64))
    }
}

/// A mask over places, and where the places are.
#[derive(Clone)]
struct Site {
    mask: Option<Mask>,
    rows: Arc<Rows>,
}

impl Site {
    fn new(x: &Tensor, rows: &Arc<Rows>, drop: Drop<'_>) -> Result<Self> {
        if x.rank() != 2 || x.dims()[0] != rows.places() {
            bail!("{:?} for {} places", x.dims(), rows.places());
        }
        Ok(Self {
            mask: Mask::new(drop, rows)?,
            rows: rows.clone(),
        })
    }

    /// `out = mask · x` of one place.
    #[inline(always)]
    fn apply(&self, place: usize, x: &[f32], out: &mut [f32]) {
        match &self.mask {
            Some(mask) => mask.place(&self.rows, place).apply(x, out),
            None => out.copy_from_slice(x),
        }
    }

    /// The factors as a tensor, for devices without a kernel; made on the processor, so that every
    /// device drops the same values.
    fn factors(&self, like: &Tensor) -> Result<Option<Tensor>> {
        if self.mask.is_none() {
            return Ok(None);
        }
        let ones = vec![1.0f32; width(like)];
        let mut out = zeros(like.elem_count());
        for_rows(&mut out, ones.len(), |place, out| {
            self.apply(place, &ones, out);
        });
        let factors = Tensor::from_vec(out, like.shape(), like.device())?;
        Ok(Some(factors.to_dtype(like.dtype())?))
    }
}

fn dropped(x: Tensor, factors: Option<&Tensor>) -> Result<Tensor> {
    match factors {
        Some(factors) => x * factors,
        None => Ok(x),
    }
}

/// Drops values of `x (places, d)` and scales the rest.
pub fn dropout(tape: &Tape, x: &Value, rows: &Arc<Rows>, drop: Drop<'_>) -> Result<Value> {
    let site = Site::new(x.tensor(), rows, drop)?;
    if site.mask.is_none() {
        return Ok(x.clone());
    }
    if !fused(&[x.tensor()]) {
        let factors = site.factors(x.tensor())?;
        return twin(tape, &[x], &[], move |x, _| {
            dropped(x[0].clone(), factors.as_ref())
        });
    }
    let x = x.contiguous()?;
    let apply = move |values: &Tensor| -> Result<Tensor> {
        let (of, width) = (read(values)?, width(values));
        let of = &*of;
        new_rows(
            values,
            #[inline(always)]
            |place, out| site.apply(place, &of[place * width..(place + 1) * width], out),
        )
    };
    let y = apply(x.tensor())?;
    Ok(tape.result(y, x.tracked(), move |backward, gradient| {
        let dx = apply(&gradient.contiguous()?)?;
        backward.add(&x, dx)
    }))
}

/// `x + dropout(y)`, both `(places, d)`.
pub fn residual(
    tape: &Tape,
    x: &Value,
    y: &Value,
    rows: &Arc<Rows>,
    drop: Drop<'_>,
) -> Result<Value> {
    if x.tensor().dims() != y.tensor().dims() {
        bail!(
            "a residual of {:?} for {:?}",
            y.tensor().dims(),
            x.tensor().dims()
        );
    }
    let site = Site::new(y.tensor(), rows, drop)?;
    if !fused(&[x.tensor(), y.tensor()]) {
        let factors = site.factors(y.tensor())?;
        return twin(tape, &[x, y], &[], move |x, _| {
            &x[0] + dropped(x[1].clone(), factors.as_ref())?
        });
    }
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let width = width(y.tensor());
    let sum = {
        let (a, b) = (read(x.tensor())?, read(y.tensor())?);
        let (a, b) = (&*a, &*b);
        new_rows(
            x.tensor(),
            #[inline(always)]
            |place, out| {
                let at = place * width..(place + 1) * width;
                site.apply(place, &b[at.clone()], out);
                for (out, x) in out.iter_mut().zip(&a[at]) {
                    *out += x;
                }
            },
        )?
    };
    let tracked = x.tracked() || y.tracked();
    Ok(tape.result(sum, tracked, move |backward, gradient| {
        let gradient = gradient.contiguous()?;
        if y.tracked() {
            let dy = {
                let g = read(&gradient)?;
                let g = &*g;
                new_rows(
                    &gradient,
                    #[inline(always)]
                    |place, out| site.apply(place, &g[place * width..(place + 1) * width], out),
                )?
            };
            backward.add(&y, dy)?;
        }
        backward.add(&x, gradient)
    }))
}

/// `dropout(max(x, 0))` of `x (places, d)`; the backward reads the mask off the result.
pub fn relu(tape: &Tape, x: &Value, rows: &Arc<Rows>, drop: Drop<'_>) -> Result<Value> {
    let site = Site::new(x.tensor(), rows, drop)?;
    if !fused(&[x.tensor()]) {
        let factors = site.factors(x.tensor())?;
        return twin(tape, &[x], &[], move |x, _| {
            dropped(plain::relu(&x[0])?, factors.as_ref())
        });
    }
    let x = x.contiguous()?;
    let width = width(x.tensor());
    let y = {
        let values = read(x.tensor())?;
        let values = &*values;
        new_rows(
            x.tensor(),
            #[inline(always)]
            |place, out| {
                site.apply(place, &values[place * width..(place + 1) * width], out);
                for out in out {
                    // Not `max`, which would hide a NaN.
                    *out = if *out < 0.0 { 0.0 } else { *out };
                }
            },
        )?
    };
    let scale = site.mask.as_ref().map_or(1.0, |mask| mask.scale);
    let (kept, tracked) = (y.clone(), x.tracked());
    // The input itself is not needed again.
    let x = x.without_tensor()?;
    Ok(tape.result(y, tracked, move |backward, gradient| {
        let gradient = gradient.contiguous()?;
        let (y, g) = (read(&kept)?, read(&gradient)?);
        let (y, g) = (&*y, &*g);
        let dx = new_rows(
            &gradient,
            #[inline(always)]
            |place, out| {
                let at = place * width..(place + 1) * width;
                for ((out, y), g) in out.iter_mut().zip(&y[at.clone()]).zip(&g[at]) {
                    let grad = g * scale;
                    *out = if *y > 0.0 { grad } else { 0.0 };
                }
            },
        )?;
        backward.add(&x, dx)
    }))
}

/// GELU's tanh form, as T5 v1.1's `gelu_new` (Hendrycks and Gimpel 2016), and its derivative.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.797_884_6; // √(2/π)
    const CUBE: f32 = 0.044_715;
    let t = tanh(ROOT * (x + CUBE * x * x * x));
    let slope = ROOT * (1.0 + 3.0 * CUBE * x * x);
    (
        0.5 * x * (1.0 + t),
        0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope,
    )
}

/// `dropout(gelu(x) · y)` of `x` and `y (places, d)`.
pub fn gated_gelu(
    tape: &Tape,
    x: &Value,
    y: &Value,
    rows: &Arc<Rows>,
    drop: Drop<'_>,
) -> Result<Value> {
    if x.tensor().dims() != y.tensor().dims() {
        bail!(
            "a gate of {:?} for {:?}",
            x.tensor().dims(),
            y.tensor().dims()
        );
    }
    let site = Site::new(x.tensor(), rows, drop)?;
    if !fused(&[x.tensor(), y.tensor()]) {
        let factors = site.factors(x.tensor())?;
        return twin(tape, &[x, y], &[], move |x, _| {
            dropped((x[0].gelu()? * &x[1])?, factors.as_ref())
        });
    }
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let width = width(x.tensor());
    let z = {
        let (a, b) = (read(x.tensor())?, read(y.tensor())?);
        let (a, b) = (&*a, &*b);
        new_rows(
            x.tensor(),
            #[inline(always)]
            |place, out| {
                let at = place * width..(place + 1) * width;
                site.apply(place, &b[at.clone()], out);
                for (out, x) in out.iter_mut().zip(&a[at]) {
                    *out *= gelu(*x).0;
                }
            },
        )?
    };
    let tracked = x.tracked() || y.tracked();
    Ok(tape.result(z, tracked, move |backward, gradient| {
        let gradient = gradient.contiguous()?;
        let (dx, dy) = {
            let (a, b, g) = (read(x.tensor())?, read(y.tensor())?, read(&gradient)?);
            let (a, b, g) = (&*a, &*b, &*g);
            let part = |first: bool| {
                let site = &site;
                new_rows(
                    &gradient,
                    #[inline(always)]
                    move |place, out| {
                        let at = place * width..(place + 1) * width;
                        site.apply(place, &g[at.clone()], out);
                        for ((out, x), y) in out.iter_mut().zip(&a[at.clone()]).zip(&b[at]) {
                            let (value, slope) = gelu(*x);
                            *out *= if first { slope * y } else { value };
                        }
                    },
                )
            };
            (part(true)?, part(false)?)
        };
        backward.add(&x, dx)?;
        backward.add(&y, dy)
    }))
}
