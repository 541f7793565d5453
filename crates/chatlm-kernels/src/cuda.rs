//! The operators that have a kernel of their own on NVIDIA GPUs (see chatlm-cuda), on the tape. What is
//! refused here falls to the twin.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};
use chatlm_cuda::attention::WIDEST;
use chatlm_cuda::tensors::{self, AttentionGradients, Heads, Projected};

use crate::attention::RelativeBias;
use crate::dropout::Mask;
use crate::gradients::Gradients;
use crate::layout::Rows;
use crate::projected::Projection;
use crate::tape::{Tape, Value, Weight};

/// Whether a kernel for NVIDIA GPUs runs on these tensors: all there, of one type.
pub(crate) fn fused(tensors: &[&Tensor]) -> bool {
    tensors
        .iter()
        .all(|t| tensors::supported(t) && t.dtype() == tensors[0].dtype())
}

/// As [`crate::rms_norm`].
pub(crate) fn rms_norm(tape: &Tape, x: &Value, weight: &Weight, eps: f64) -> Result<Value> {
    let x = x.contiguous()?;
    let made = tensors::rms_norm(x.tensor(), None, weight.tensor(), eps)?;
    let tracked = x.tracked() || weight.index().is_some();
    let (weight, scales) = (weight.clone(), made.scales);
    Ok(
        tape.result(made.normed, tracked, move |backward, gradient| {
            let gradient = gradient.contiguous()?;
            let (dx, dw) =
                tensors::rms_norm_backward(x.tensor(), weight.tensor(), &scales, &gradient, None)?;
            backward.add(&x, dx)?;
            if let Some(index) = weight.index() {
                backward.gradients.add(index, &dw)?;
            }
            Ok(())
        }),
    )
}

/// Where each row begins, and where the last ends.
fn starts(rows: &Rows) -> Vec<u32> {
    let mut starts = vec![0];
    starts.extend((0..rows.count()).map(|row| rows.range(row).end as u32));
    starts
}

/// Whether attention of this width has a kernel.
pub(crate) fn attends(inner: usize, heads: usize) -> bool {
    inner > 0 && inner / heads <= WIDEST
}

/// What a call of attention keeps for its backward.
struct Call {
    heads: usize,
    causal: bool,
    queries: Vec<u32>,
    keys: Vec<u32>,
    mask: Option<Mask>,
    /// f32 (heads, distances)
    lines: Option<Tensor>,
}

impl Call {
    fn heads(&self) -> Heads<'_> {
        Heads {
            heads: self.heads,
            causal: self.causal,
            queries: &self.queries,
            keys: &self.keys,
            bias: self.lines.as_ref(),
            drop: self.mask.as_ref().map(Mask::on_cuda),
        }
    }
}

/// As [`crate::attention`], after its checks.
pub(crate) fn attention(
    tape: &Tape,
    [q, k, v]: [&Value; 3],
    heads: usize,
    bias: Option<&RelativeBias>,
    [queries, keys]: [&Arc<Rows>; 2],
    causal: bool,
    mask: Option<Mask>,
) -> Result<Value> {
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let buckets = match bias {
        Some(bias) => Some(Tensor::new(bias.buckets.as_slice(), q.tensor().device())?),
        None => None,
    };
    let lines = match (bias, &buckets) {
        (Some(bias), Some(buckets)) => {
            let lines = bias.weight.tensor().to_dtype(DType::F32)?;
            Some(lines.index_select(buckets, 0)?.t()?.contiguous()?)
        }
        _ => None,
    };
    let call = Call {
        heads,
        causal,
        queries: starts(queries),
        keys: starts(keys),
        mask,
        lines,
    };
    let attended = tensors::attention(q.tensor(), k.tensor(), v.tensor(), call.heads())?;
    let tracked = [&q, &k, &v].iter().any(|x| x.tracked())
        || bias.is_some_and(|bias| bias.weight.index().is_some());
    let bias = bias.cloned();
    let out = attended.out.clone();
    Ok(tape.result(out, tracked, move |backward, gradient| {
        let gradient = gradient.contiguous()?;
        let inputs = [q.tensor(), k.tensor(), v.tensor()];
        let AttentionGradients { dq, dk, dv, lines } =
            tensors::attention_backward(inputs, call.heads(), &attended, &gradient)?;
        for (value, gradient) in [(&q, dq), (&k, dk), (&v, dv)] {
            backward.add(value, gradient)?;
        }
        if let (Some(bias), Some(lines), Some(buckets)) = (&bias, lines, &buckets)
            && let Some(index) = bias.weight.index()
        {
            let table = Tensor::zeros(bias.weight.tensor().shape(), DType::F32, lines.device())?;
            let table = table.index_add(buckets, &lines.t()?.contiguous()?, 0)?;
            backward.gradients.add(index, &table)?;
        }
        Ok(())
    }))
}

impl Projection<'_> {
    fn on_cuda<'a>(&'a self, targets: &'a [u32], ignore: u32) -> Projected<'a> {
        Projected {
            weight: self.weight.tensor(),
            scale: self.scale,
            targets,
            ignore,
        }
    }

    /// As [`Projection::cross_entropy`]; with gradients, `factor` times them too.
    pub(crate) fn cuda_cross_entropy(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        ignore: u32,
        smoothing: f64,
        gradients: Option<(f64, &mut Gradients<'_>)>,
    ) -> Result<(f64, Tensor)> {
        let hidden = hidden.contiguous()?;
        let with = self.on_cuda(targets, ignore);
        let factor = gradients.as_ref().map(|(factor, _)| *factor);
        let (loss, found) = tensors::projected_cross_entropy(&hidden, with, smoothing, factor)?;
        self.take(
            loss,
            &hidden,
            found,
            gradients.map(|(_, gradients)| gradients),
        )
    }

    /// As [`Projection::log_probabilities`]; with `by`, their gradients too.
    pub(crate) fn cuda_log_probabilities(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        ignore: u32,
        gradients: Option<(&[f32], &mut Gradients<'_>)>,
    ) -> Result<(Vec<f32>, Tensor)> {
        let hidden = hidden.contiguous()?;
        let with = self.on_cuda(targets, ignore);
        let by = match &gradients {
            Some((by, _)) => Some(Tensor::new(*by, hidden.device())?),
            None => None,
        };
        let (scores, found) = tensors::log_probabilities(&hidden, with, by.as_ref())?;
        self.take(
            scores,
            &hidden,
            found,
            gradients.map(|(_, gradients)| gradients),
        )
    }

    /// Hands the weight's gradient on, and answers the hidden states'.
    fn take<T>(
        &self,
        score: T,
        hidden: &Tensor,
        found: Option<(Tensor, Tensor)>,
        gradients: Option<&mut Gradients<'_>>,
    ) -> Result<(T, Tensor)> {
        let Some((dx, dw)) = found else {
            return Ok((score, hidden.zeros_like()?));
        };
        let Some(gradients) = gradients else {
            bail!("gradients that nobody asked for");
        };
        if let Some(index) = self.weight.index() {
            gradients.add(index, &dw)?;
        }
        Ok((score, dx))
    }
}
