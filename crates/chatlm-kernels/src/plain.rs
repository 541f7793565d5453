//! The same operators of candle's own: the reference in tests, and the path of every device that
//! has no kernel here.

use candle_core::{D, DType, Result, Tensor};

use crate::dropout::Mask;
use crate::gemm::Precision;
use crate::layout::Rows;

pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
    wide.broadcast_div(&(mean + eps)?.sqrt()?)?
        .to_dtype(x.dtype())?
        .broadcast_mul(weight)
}

/// An operand of a product, rounded. Every result is turned back to the type that the operands had.
fn rounded(x: &Tensor, precision: Precision) -> Result<Tensor> {
    match precision {
        Precision::F32 => Ok(x.clone()),
        // candle has no products of bf16 on the processor: rounded values are multiplied as they were.
        Precision::Bf16 if x.device().is_cpu() => x.to_dtype(DType::BF16)?.to_dtype(x.dtype()),
        Precision::Bf16 => x.to_dtype(DType::BF16),
        Precision::F16 => x.to_dtype(DType::F16),
    }
}

/// `scale · x·Wᵀ` with both operands rounded.
pub(crate) fn product(
    x: &Tensor,
    weight: &Tensor,
    scale: f64,
    precision: Precision,
) -> Result<Tensor> {
    // Before the product, which is the larger tensor and in f16 has the smaller range.
    let scaled = match scale {
        1.0 => x.clone(),
        scale => (x * scale)?,
    };
    linear(&rounded(&scaled, precision)?, &rounded(weight, precision)?)?.to_dtype(x.dtype())
}

/// `max(x, 0)` that, unlike candle's, hides no NaN.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x.le(0f64)?.where_cond(&x.zeros_like()?, x)
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

/// (length, heads · width) → (1, heads, length, width)
fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (length, inner) = x.dims2()?;
    x.reshape((1, length, heads, inner / heads))?
        .transpose(1, 2)?
        .contiguous()
}

/// Attention of row r of `queries` over row r of `keys`; `bias(queries, keys)` gives what is added to
/// the scores.
pub(crate) fn attention(
    [q, k, v]: [&Tensor; 3],
    heads: usize,
    bias: impl Fn(usize, usize) -> Result<Option<Tensor>>,
    [queries, keys]: [&Rows; 2],
    causal: bool,
    mask: Option<&Mask>,
    precision: Precision,
) -> Result<Tensor> {
    // As the kernels do: bf16, whose eight bits are few for a score, is of the weights' products alone.
    let precision = match precision {
        Precision::F16 => Precision::F16,
        Precision::F32 | Precision::Bf16 => Precision::F32,
    };
    let product = |a: &Tensor, b: &Tensor| {
        rounded(a, precision)?
            .matmul(&rounded(b, precision)?)?
            .to_dtype(a.dtype())
    };
    let (_, inner) = q.dims2()?;
    let mut rows = Vec::new();
    for row in 0..queries.count() {
        let (own, theirs) = (queries.range(row), keys.range(row));
        if own.is_empty() {
            continue;
        }
        if theirs.is_empty() {
            rows.push(q.narrow(0, own.start, own.len())?.zeros_like()?);
            continue;
        }
        let q = split(&q.narrow(0, own.start, own.len())?.contiguous()?, heads)?;
        let part = |x: &Tensor| {
            split(
                &x.narrow(0, theirs.start, theirs.len())?.contiguous()?,
                heads,
            )
        };
        let (k, v) = (part(k)?, part(v)?);
        let scores = product(&q, &k.transpose(2, 3)?.contiguous()?)?;
        let bias = bias(own.len(), theirs.len())?;
        let mut p = attention_probabilities(&scores, bias.as_ref(), None, causal)?;
        if let Some(mask) = mask {
            let factors: Vec<f32> = (0..heads)
                .flat_map(|head| (0..own.len()).map(move |query| (head, query)))
                .flat_map(|(head, query)| {
                    let line = mask.query(row, head, query);
                    (0..theirs.len()).map(move |key| line.factor(key))
                })
                .collect();
            let factors = Tensor::from_vec(factors, p.shape(), p.device())?;
            p = (p * factors.to_dtype(q.dtype())?)?;
        }
        rows.push(
            product(&p, &v)?
                .transpose(1, 2)?
                .contiguous()?
                .reshape((own.len(), inner))?,
        );
    }
    if rows.is_empty() {
        return q.zeros_like();
    }
    Tensor::cat(&rows, 0)
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
    cross_entropies(logits, targets, ignore, smoothing)?.sum_all()
}

/// Of each row; 0 where the target is `ignore`.
pub(crate) fn cross_entropies(
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
    (score * counted)?.neg()
}

pub fn log_probabilities(logits: &Tensor, targets: &Tensor, ignore: u32) -> Result<Tensor> {
    let (targets, counted) = gathered(targets, ignore, logits.dtype())?;
    log_softmax(logits)?
        .gather(&targets.unsqueeze(1)?, 1)?
        .squeeze(1)?
        * counted
}
