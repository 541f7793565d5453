//! What a run remembers between its steps.

use chatlm_dataset::Cursor;
use chatlm_train::{PreferenceMeasures, StepReport};
use serde::{Deserialize, Serialize};

/// Sums since the last `step` event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Window {
    pub(super) steps: u64,
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
    pub(super) tokens: u64,
    pub(super) seconds: f64,
    /// Sums of [`PreferenceMeasures::values`].
    pub(super) rewards: Option<Vec<f64>>,
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
        if let Some(measures) = &report.rewards {
            let sums = self.rewards.get_or_insert_default();
            sums.resize(PreferenceMeasures::COUNT, 0.0);
            for (sum, value) in sums.iter_mut().zip(measures.values()) {
                *sum += value;
            }
        }
    }

    /// The means of the preference measures over the steps.
    pub(super) fn preferences(&self) -> Option<PreferenceMeasures> {
        let sums = self.rewards.as_ref()?;
        let mut means = [0.0; PreferenceMeasures::COUNT];
        for (mean, sum) in means.iter_mut().zip(sums) {
            *mean = sum / self.steps as f64;
        }
        Some(PreferenceMeasures::of_values(means))
    }
}
