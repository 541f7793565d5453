use candle_core::{DType, Result, Tensor, bail};

use super::device::{Session, same};
use crate::attention::{Attention, Bias, Forward, Gradients};
use crate::machine::Dropout;

/// How the places of a call are laid out, and what a query sees.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    pub heads: usize,
    /// Queries see keys up to their own place.
    pub causal: bool,
    /// Where each row's queries begin, and where the last ends.
    pub queries: &'a [u32],
    /// The same of the keys.
    pub keys: &'a [u32],
    /// f32 (heads, 2 · longest − 1): the bias of each distance `key − query + longest − 1`.
    pub bias: Option<&'a Tensor>,
    /// Of the probabilities.
    pub drop: Option<Dropout<'a>>,
}

/// What [`attention`] answers.
pub struct Attended {
    /// (places of queries, heads · width)
    pub out: Tensor,
    /// The log of each query's softmax sum, f32 (heads, places of queries): for the backward.
    pub norms: Tensor,
}

/// What [`attention_backward`] answers.
pub struct AttentionGradients {
    pub dq: Tensor,
    pub dk: Tensor,
    pub dv: Tensor,
    /// Of the bias, f32 (heads, 2 · longest − 1).
    pub lines: Option<Tensor>,
}

fn prepare<'a>(on: &Session, [q, k, v]: [&Tensor; 3], heads: Heads<'a>) -> Result<Attention<'a>> {
    let (element, _) = same(&[q, k, v])?;
    let ((places, inner), (key_places, key_inner)) = (q.dims2()?, k.dims2()?);
    let ends = |starts: &[u32]| starts.last().map(|&end| end as usize);
    let fits = k.dims() == v.dims()
        && inner == key_inner
        && heads.heads > 0
        && inner % heads.heads == 0
        && ends(heads.queries) == Some(places)
        && ends(heads.keys) == Some(key_places);
    if !fits {
        bail!(
            "attention of {} heads of {:?} over {:?} and {:?}",
            heads.heads,
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    let bias = match heads.bias {
        None => None,
        Some(lines) => {
            let (count, distances) = lines.dims2()?;
            if count != heads.heads || distances % 2 == 0 {
                bail!("a bias of {:?} for {} heads", lines.dims(), heads.heads);
            }
            Some(Bias {
                lines: on.of(lines, DType::F32)?,
                longest: distances.div_ceil(2),
            })
        }
    };
    Ok(Attention {
        element,
        heads: heads.heads,
        width: inner / heads.heads,
        causal: heads.causal,
        queries: heads.queries,
        keys: heads.keys,
        bias,
        drop: heads.drop,
    })
}

/// Attention of `q (places, heads · width)` over `k` and `v` of the same width, row r of the queries over
/// row r of the keys, scores without scaling (Raffel et al. 2020; Dao et al. 2022, "FlashAttention").
/// A head is at most 128 wide. A query that sees nothing gives 0.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads<'_>) -> Result<Attended> {
    let on = Session::new(q)?;
    let op = prepare(&on, [q, k, v], heads)?;
    let out = on.empty(q.shape(), q.dtype())?;
    let norms = on.empty((heads.heads, q.dim(0)?), DType::F32)?;
    let with = Forward {
        q: on.memory(q)?,
        k: on.memory(k)?,
        v: on.memory(v)?,
        out: on.memory(&out)?,
        norms: on.memory(&norms)?,
    };
    op.forward(&on, &with)?;
    Ok(Attended { out, norms })
}

/// The gradients of [`attention`] from its result and its result's `gradient`.
pub fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    heads: Heads<'_>,
    attended: &Attended,
    gradient: &Tensor,
) -> Result<AttentionGradients> {
    same(&[q, gradient, &attended.out])?;
    let on = Session::new(q)?;
    let op = prepare(&on, [q, k, v], heads)?;
    let [dq, dk, dv] = [q, k, v].map(|x| on.empty(x.shape(), x.dtype()));
    let (dq, dk, dv) = (dq?, dk?, dv?);
    let lines = match heads.bias {
        Some(bias) => Some(on.empty(bias.shape(), DType::F32)?),
        None => None,
    };
    let with = Forward {
        q: on.memory(q)?,
        k: on.memory(k)?,
        v: on.memory(v)?,
        out: on.memory(&attended.out)?,
        norms: on.of(&attended.norms, DType::F32)?,
    };
    let to = Gradients {
        out: on.memory(gradient)?,
        dq: on.memory(&dq)?,
        dk: on.memory(&dk)?,
        dv: on.memory(&dv)?,
        lines: on.maybe(lines.as_ref())?,
    };
    op.backward(&on, &with, &to)?;
    Ok(AttentionGradients { dq, dk, dv, lines })
}
