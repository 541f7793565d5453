//! AdamW (Loshchilov and Hutter 2019) in the order of `torch.optim.AdamW`: decay, moments, step; the same
//! numbers as chatlm-optim's.

use crate::machine::{Call, Element, Machine, Memory, Module, check};
use crate::sums::chunks;

const THREADS: u32 = 256;
/// A block's threads go round.
const BLOCKS: u32 = 4096;

/// Its constants; PyTorch's are 0.9, 0.999, 1e-8, 0.01.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

/// One weight, its gradient and its moments, `count` values each: all f32 but the gradient.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    pub count: usize,
    pub weight: Memory,
    pub gradient: Memory,
    /// Of the gradient.
    pub element: Element,
    pub first: Memory,
    pub second: Memory,
}

impl AdamW {
    /// Updates a weight from `scale · gradient` at `step`, counted from 1.
    pub fn update<M: Machine>(
        &self,
        machine: &M,
        of: &Weight,
        scale: f32,
        learning_rate: f64,
        step: u64,
    ) -> Result<(), M::Error> {
        let bytes = of.count as u64 * 4;
        check(
            machine,
            &[
                ("the weight", Some(of.weight), bytes),
                (
                    "the gradient",
                    Some(of.gradient),
                    of.count as u64 * of.element.bytes(),
                ),
                ("the first moment", Some(of.first), bytes),
                ("the second moment", Some(of.second), bytes),
            ],
        )?;
        if step == 0 {
            return Err(machine.refuse("steps are counted from 1".to_owned()));
        }
        if of.count == 0 {
            return Ok(());
        }
        let power = step.min(i32::MAX as u64) as i32;
        let correction1 = 1.0 - self.beta1.powi(power);
        let root = (1.0 - self.beta2.powi(power)).sqrt();
        // A block of 256 threads has 4 values a thread, up to the most blocks.
        let blocks = (chunks(machine, of.count)? * 32).min(BLOCKS);
        machine.launch(&Call::new(
            Module::AdamW,
            format!("adamw_{}", of.element.name()),
            ([blocks, 1, 1], THREADS),
            vec![
                of.weight.into(),
                of.gradient.into(),
                of.first.into(),
                of.second.into(),
                (of.count as u64).into(),
                scale.into(),
                (self.beta1 as f32).into(),
                ((1.0 - self.beta1) as f32).into(),
                (self.beta2 as f32).into(),
                ((1.0 - self.beta2) as f32).into(),
                ((1.0 - learning_rate * self.weight_decay) as f32).into(),
                ((learning_rate / correction1) as f32).into(),
                (root as f32).into(),
                (self.epsilon as f32).into(),
            ],
        ))
    }
}
