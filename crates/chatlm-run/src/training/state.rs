//! What a run remembers between its steps.

use chatlm_dataset::Cursor;
use chatlm_train::StepReport;
use serde::{Deserialize, Serialize};

/// Sums since the last `step` event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Window {
    pub(super) steps: u64,
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
    pub(super) tokens: u64,
    pub(super) seconds: f64,
    pub(super) rewards: Option<[f64; 4]>,
    /// Steps left out since a gradient was too large for f16.
    #[serde(default, skip_serializing_if = "none")]
    pub(super) overflows: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn none(count: &u64) -> bool {
    *count == 0
}

/// What a checkpoint remembers besides tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    pub(super) step: u64,
    pub(super) cursor: Cursor,
    pub(super) epoch_ended: bool,
    pub(super) evaluated: Option<u64>,
    pub(super) best: Option<f64>,
    /// Evaluations since the best one.
    pub(super) worse: u64,
    pub(super) finished: bool,
    pub(super) window: Window,
    pub(super) metrics_bytes: u64,
    pub(super) samples_bytes: u64,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            step: 0,
            cursor: Cursor { epoch: 0, row: 0 },
            epoch_ended: false,
            evaluated: None,
            best: None,
            worse: 0,
            finished: false,
            window: Window::default(),
            metrics_bytes: 0,
            samples_bytes: 0,
        }
    }
}

impl Window {
    /// Counts a step in.
    pub(super) fn add(&mut self, report: &StepReport, seconds: f64) {
        self.steps += 1;
        self.loss += report.loss;
        self.grad_norm += report.grad_norm;
        self.tokens += report.tokens as u64;
        self.seconds += seconds;
        if let Some(r) = &report.rewards {
            let sum = self.rewards.get_or_insert([0.0; 4]);
            for (sum, value) in sum
                .iter_mut()
                .zip([r.chosen, r.rejected, r.margins, r.accuracies])
            {
                *sum += value;
            }
        }
    }
}
