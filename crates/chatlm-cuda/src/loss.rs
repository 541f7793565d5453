//! Cross-entropy and log-probabilities over a chunk of logits, which become their own gradient in place:
//! with chunks of rows, logits of a whole batch never exist (the idea of Liger Kernel's fused linear
//! cross-entropy, Hsu et al. 2024). The products before and after are cuBLAS's.

use crate::machine::{Call, Element, Machine, Memory, Module, check, small};

const THREADS: u32 = 256;

/// A chunk of logits `(targets, width)`.
#[derive(Debug, Clone, Copy)]
pub struct Loss<'a> {
    pub element: Element,
    /// One a row; below `width`, or `ignore`.
    pub targets: &'a [u32],
    /// The vocabulary.
    pub width: usize,
    /// The target of rows that do not count: their loss and gradient are 0.
    pub ignore: u32,
    /// What logits are multiplied by first.
    pub scale: f32,
}

impl Loss<'_> {
    /// The targets where kernels find them, and the width.
    fn prepare<M: Machine>(
        &self,
        machine: &M,
        logits: Memory,
        out: Memory,
    ) -> Result<(Memory, u32, u32), M::Error> {
        let rows = small(machine, "rows", self.targets.len())?;
        let width = small(machine, "columns", self.width)?;
        let bad = |t: &&u32| **t != self.ignore && **t as usize >= self.width;
        if let Some(target) = self.targets.iter().find(bad) {
            return Err(machine.refuse(format!(
                "target {target} is outside a vocabulary of {width}"
            )));
        }
        let bytes = u64::from(rows) * u64::from(width) * self.element.bytes();
        check(
            machine,
            &[
                ("logits", Some(logits), bytes),
                ("losses", Some(out), u64::from(rows) * 4),
            ],
        )?;
        Ok((machine.numbers(self.targets)?, rows, width))
    }

    /// The loss of each row in nats, f32, with `smoothing` of the target spread evenly over the vocabulary
    /// (as PyTorch's `label_smoothing`). With `gradient`, logits become that factor times their gradient.
    pub fn cross_entropy<M: Machine>(
        &self,
        machine: &M,
        logits: Memory,
        smoothing: f32,
        gradient: Option<f32>,
        losses: Memory,
    ) -> Result<(), M::Error> {
        let (targets, rows, width) = self.prepare(machine, logits, losses)?;
        if rows == 0 {
            return Ok(());
        }
        machine.launch(&Call::new(
            Module::Loss,
            format!("loss_cross_entropy_{}", self.element.name()),
            ([rows, 1, 1], THREADS),
            vec![
                logits.into(),
                targets.into(),
                width.into(),
                self.ignore.into(),
                smoothing.into(),
                self.scale.into(),
                gradient.is_some().into(),
                gradient.unwrap_or(0.0).into(),
                losses.into(),
            ],
        ))
    }

    /// The log-probability of each row's target, f32, 0 where it is `ignore`. With `by` f32 (rows), logits
    /// become the gradient of `Σ by[row] · log-probability(row)`.
    pub fn log_probabilities<M: Machine>(
        &self,
        machine: &M,
        logits: Memory,
        by: Option<Memory>,
        out: Memory,
    ) -> Result<(), M::Error> {
        let (targets, rows, width) = self.prepare(machine, logits, out)?;
        check(machine, &[("derivatives", by, u64::from(rows) * 4)])?;
        if rows == 0 {
            return Ok(());
        }
        machine.launch(&Call::new(
            Module::Loss,
            format!("loss_log_probability_{}", self.element.name()),
            ([rows, 1, 1], THREADS),
            vec![
                logits.into(),
                targets.into(),
                width.into(),
                self.ignore.into(),
                self.scale.into(),
                by.into(),
                out.into(),
            ],
        ))
    }
}
