//! Pre-training, fine-tuning and preference tuning: losses, the optimizer step, what is frozen,
//! what a checkpoint must hold; and BLEU.
//!
//! Batches come as ids with one dropout key a row; where they come from, when to evaluate and when
//! to save is `chatlm-run`'s business.

mod batch;
mod bleu;
mod config;
mod freeze;
mod loss;
pub mod parallel;
mod passes;
mod preference;
mod scaler;
mod trainer;
mod update;

pub use batch::{PreferenceBatch, ReferenceBatch, SequenceBatch};
pub use bleu::bleu4;
pub use chatlm_t5::{LoraBias, LoraConfig};
pub use config::{Contamination, OnNan, OptimizerKind, TrainConfig, TrainSet};
pub use loss::{sequence_log_probabilities, sequence_loss};
pub use preference::{
    Objective, Pair, PairLoss, PreferenceLoss, PreferenceMeasures, PreferenceSums, Score,
    preference_measures,
};
pub use trainer::{StepReport, Trainer};
