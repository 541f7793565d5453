//! What both optimizers share: a weight changed in place beside its gradient, and sums in a fixed
//! order whatever the threads.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, Var, bail};

/// Values worth a task of their own.
pub(crate) const TASK: usize = 1 << 14;

/// Calls `work(weights, gradient)` on the values of a weight, in place.
pub(crate) fn update(
    var: &Var,
    grad: &Tensor,
    work: impl FnOnce(&mut [f32], &[f32]),
) -> Result<()> {
    struct Update<F>(std::cell::Cell<Option<F>>);

    impl<F: FnOnce(&mut [f32], &[f32])> InplaceOp2 for Update<F> {
        fn name(&self) -> &'static str {
            "optimizer-update"
        }

        fn cpu_fwd(
            &self,
            s1: &mut CpuStorage,
            l1: &Layout,
            s2: &CpuStorage,
            l2: &Layout,
        ) -> Result<()> {
            let (CpuStorage::F32(weights), CpuStorage::F32(grad)) = (s1, s2) else {
                bail!("optimizers work on f32")
            };
            let (Some((a, b)), Some((c, d))) = (l1.contiguous_offsets(), l2.contiguous_offsets())
            else {
                bail!("optimizers work on contiguous tensors")
            };
            if b - a != d - c {
                bail!("a gradient of {} values for a weight of {}", d - c, b - a);
            }
            if let Some(work) = self.0.take() {
                work(&mut weights[a..b], &grad[c..d]);
            }
            Ok(())
        }
    }

    let grad = grad.contiguous()?;
    var.as_tensor()
        .inplace_op2(&grad, &Update(std::cell::Cell::new(Some(work))))
}

/// The sum of squares in f64: tasks in parallel, added in their order.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    use rayon::prelude::*;
    let parts: Vec<f64> = values
        .par_chunks(TASK)
        .map(|chunk| {
            let mut lanes = [0.0f64; 8];
            let (eights, rest) = chunk.as_chunks::<8>();
            for eight in eights {
                for (lane, &value) in lanes.iter_mut().zip(eight) {
                    *lane += f64::from(value) * f64::from(value);
                }
            }
            let tail: f64 = rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            lanes.iter().sum::<f64>() + tail
        })
        .collect();
    parts.iter().sum()
}
