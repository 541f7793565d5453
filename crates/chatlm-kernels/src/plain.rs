//! The same operators of candle's own: the reference in tests, and the path of every device that
//! has no kernel here.

use candle_core::{D, DType, Result, Tensor};

use crate::dropout::{Drop, dropout};

pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
    wide.broadcast_div(&(mean + eps)?.sqrt()?)?
        .to_dtype(x.dtype())?
        .broadcast_mul(weight)
}

pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (out, inner) = weight.dims2()?;
    let rows = x.elem_count() / inner.max(1);
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = out;
    }
    x.reshape((rows, inner))?
        .matmul(&weight.t()?)?
        .reshape(dims)
}

pub fn attention_probabilities(
    scores: &Tensor,
    bias: Option<&Tensor>,
    mask: Option<&Tensor>,
    causal: bool,
) -> Result<Tensor> {
    let (batch, _, queries, keys) = scores.dims4()?;
    let mut scores = match bias {
        Some(bias) => scores.broadcast_add(bias)?,
        None => scores.clone(),
    };
    // 1 where the key may be seen.
    let mut seen = Tensor::ones((batch, 1, queries, keys), DType::U8, scores.device())?;
    if causal {
        let allowed: Vec<u8> = (0..queries)
            .flat_map(|q| (0..keys).map(move |k| u8::from(k + queries < keys + q + 1)))
            .collect();
        let allowed = Tensor::from_vec(allowed, (1, 1, queries, keys), scores.device())?;
        seen = seen.broadcast_mul(&allowed)?;
    }
    if let Some(mask) = mask {
        seen = seen.broadcast_mul(&mask.reshape((batch, 1, 1, keys))?)?;
    }
    let seen = seen.broadcast_as(scores.shape())?.contiguous()?;
    let low = Tensor::full(-1e30f32, scores.shape(), scores.device())?.to_dtype(scores.dtype())?;
    scores = seen.where_cond(&scores, &low)?;
    let largest = scores.max_keepdim(D::Minus1)?.detach();
    let exp = (scores.broadcast_sub(&largest)?.exp()? * seen.to_dtype(scores.dtype())?)?;
    let sum = exp.sum_keepdim(D::Minus1)?;
    exp.broadcast_div(&(sum + 1e-30)?)
}

/// (batch, length, heads · width) → (batch, heads, length, width)
fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, length, inner) = x.dims3()?;
    x.reshape((batch, length, heads, inner / heads))?
        .transpose(1, 2)?
        .contiguous()
}

pub fn attention(
    q: &Tensor,
    kv: &Tensor,
    heads: usize,
    bias: Option<&Tensor>,
    mask: Option<&Tensor>,
    causal: bool,
    drop: Drop<'_>,
) -> Result<Tensor> {
    let (batch, queries, inner) = q.dims3()?;
    let part = |at: usize| split(&kv.narrow(2, at * inner, inner)?.contiguous()?, heads);
    let (q, k, v) = (split(q, heads)?, part(0)?, part(1)?);
    let scores = q.matmul(&k.transpose(2, 3)?.contiguous()?)?;
    let mut p = attention_probabilities(&scores, bias, mask, causal)?;
    if let Some((keys, site)) = drop {
        p = dropout(&p, keys, site)?;
    }
    p.matmul(&v)?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((batch, queries, inner))
}

/// Log-probabilities of all the vocabulary.
fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let largest = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&largest)?;
    let norm = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    shifted.broadcast_sub(&norm)
}

/// Targets that can be gathered, and 1 where they count.
fn gathered(targets: &Tensor, ignore: u32, dtype: DType) -> Result<(Tensor, Tensor)> {
    let counted = targets.ne(ignore)?;
    let zero = targets.zeros_like()?;
    Ok((
        counted.where_cond(targets, &zero)?,
        counted.to_dtype(dtype)?,
    ))
}

pub fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    ignore: u32,
    smoothing: f64,
) -> Result<Tensor> {
    let (targets, counted) = gathered(targets, ignore, logits.dtype())?;
    let all = log_softmax(logits)?;
    let hit = all.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?;
    let even = all.mean(D::Minus1)?;
    let score = ((hit * (1.0 - smoothing))? + (even * smoothing)?)?;
    (score * counted)?.sum_all()?.neg()
}

pub fn log_probabilities(logits: &Tensor, targets: &Tensor, ignore: u32) -> Result<Tensor> {
    let (targets, counted) = gathered(targets, ignore, logits.dtype())?;
    log_softmax(logits)?
        .gather(&targets.unsqueeze(1)?, 1)?
        .squeeze(1)?
        * counted
}
