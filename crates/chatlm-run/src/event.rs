//! What a training run tells while it goes; the same values are the lines of `metrics.jsonl`.

use chatlm_train::{PreferenceLoss, PreferenceMeasures};
use serde::Serialize;

/// One thing that happened. Crosses the border as an object with a `type`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Event {
    Started {
        step: u64,
        total_steps: u64,
        parameters: u64,
        trainable: u64,
        /// The checkpoint the run goes on from.
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed_from: Option<String>,
        /// Broken checkpoints that were passed over, with the reason.
        skipped: Vec<String>,
        /// In what this machine differs from that which wrote the checkpoint; with any the run goes on
        /// numerically, not to the bit.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        inexact: Vec<String>,
    },
    Step(StepEvent),
    Evaluated(Evaluated),
    Sample {
        step: u64,
        prompt: String,
        response: String,
        label: String,
    },
    Saved {
        step: u64,
        path: String,
    },
    Skipped {
        step: u64,
        reason: String,
    },
    /// Reference log-probabilities are there.
    Reference {
        step: u64,
        rows: u64,
        /// Those that were not found but computed.
        computed: u64,
        path: String,
    },
    /// Evaluation rows that are trained on too.
    Contamination {
        step: u64,
        /// All evaluation rows.
        rows: u64,
        /// Those that are in `train` to the byte.
        exact: u64,
        /// Those that are there after NFKC and without white space; the exact ones count.
        same: u64,
        /// Those whose prompt is there; the same ones count.
        prompts: u64,
        /// The first of the same ones, counted from 0.
        first: Vec<u64>,
    },
    Warned {
        step: u64,
        reason: String,
    },
    Finished {
        step: u64,
        reason: FinishReason,
    },
}

/// Why a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FinishReason {
    /// All steps of the configuration are done.
    Steps,
    /// The evaluation loss did not improve for `earlyStop` evaluations.
    EarlyStop,
}

/// How far a run was when something happened, so that runs can be laid over each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stamp {
    /// Source and target tokens trained on since the beginning, over all processes.
    pub tokens: u64,
    /// Seconds that the run has been open, over all processes.
    pub seconds: f64,
    /// Seconds since 1970.
    pub time: f64,
}

/// The mean over the optimizer steps since the last such event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepEvent {
    pub step: u64,
    pub epoch: f64,
    /// Mean cross-entropy a target token, in nats (preference loss a pair for `dpo`).
    pub loss: f64,
    pub learning_rate: f64,
    /// Global L2 norm before clipping.
    pub grad_norm: f64,
    /// Source and target tokens together, without padding.
    pub tokens_per_second: f64,
    /// Memory that the process holds now, Node included; 0 where the system does not tell.
    pub rss_bytes: u64,
    /// Share of the places computed that are padding: 0, since rows are laid end to end on every device.
    pub padding_share: f64,
    pub total_steps: u64,
    #[serde(flatten)]
    pub stamp: Stamp,
    /// Of f16: what the loss was multiplied by in the last step, and the steps left out since a gradient
    /// was too large for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Rewards>,
}

/// The preference measures, named as TRL names them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewards {
    pub chosen: f64,
    pub rejected: f64,
    pub margins: f64,
    pub accuracies: f64,
    pub logps_chosen: f64,
    pub logps_rejected: f64,
    pub nll_loss: f64,
    /// Of ORPO alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_odds_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_odds_chosen: Option<f64>,
}

impl Rewards {
    pub(crate) fn new(loss: PreferenceLoss, measures: &PreferenceMeasures) -> Self {
        let odds = |value: f64| (loss == PreferenceLoss::Orpo).then_some(value);
        Self {
            chosen: measures.chosen,
            rejected: measures.rejected,
            margins: measures.margins,
            accuracies: measures.accuracies,
            logps_chosen: measures.logps_chosen,
            logps_rejected: measures.logps_rejected,
            nll_loss: measures.nll_loss,
            log_odds_ratio: odds(measures.log_odds_ratio),
            log_odds_chosen: odds(measures.log_odds_chosen),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluated {
    pub step: u64,
    pub epoch: f64,
    pub eval_loss: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_bleu4: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Rewards>,
    /// Whether this is the best evaluation so far, kept in `best/`.
    pub best: bool,
    #[serde(flatten)]
    pub stamp: Stamp,
}
