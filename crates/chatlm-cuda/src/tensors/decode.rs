use candle_core::{DType, Result, Tensor, bail};

use super::device::{Session, element, same};
use crate::decode::{self, Cache, NONE, Step};

/// The first of the largest scores of each row of `scores (rows, vocabulary)`; `None` where one is not
/// finite. Waits: four bytes a row come back.
pub fn argmax(scores: &Tensor) -> Result<Vec<Option<u32>>> {
    let (rows, width) = scores.dims2()?;
    let on = Session::new(scores)?;
    let out = on.empty(rows, DType::U32)?;
    let element = element(scores.dtype())?;
    decode::argmax(
        &on,
        element,
        on.memory(scores)?,
        (rows, width),
        on.memory(&out)?,
    )?;
    let tokens: Vec<u32> = out.to_vec1()?;
    Ok(tokens
        .into_iter()
        .map(|token| (token != NONE).then_some(token))
        .collect())
}

/// One query a row over a cache: `q (rows, heads · width)`, `k` and `v (rows, heads, room, width)`, of
/// which the first `lengths[row]` keys are there; `bias` f32 (heads, room). Answers `(rows, heads · width)`.
pub fn step_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: Option<&Tensor>,
    lengths: &[u32],
) -> Result<Tensor> {
    let (element, dtype) = same(&[q, k, v])?;
    let (rows, heads, room, width) = k.dims4()?;
    let fits = q.dims() == [rows, heads * width] && v.dims() == k.dims() && lengths.len() == rows;
    if !fits || bias.is_some_and(|bias| bias.dims() != [heads, room]) {
        bail!(
            "a step of {:?} over {:?} and {:?}",
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    let on = Session::new(q)?;
    let out = on.empty(q.shape(), dtype)?;
    let with = Cache {
        q: on.memory(q)?,
        k: on.memory(k)?,
        v: on.memory(v)?,
        bias: bias.map(|bias| on.of(bias, DType::F32)).transpose()?,
        out: on.memory(&out)?,
    };
    Step {
        element,
        heads,
        width,
        room,
        lengths,
    }
    .attention(&on, &with)?;
    Ok(out)
}
