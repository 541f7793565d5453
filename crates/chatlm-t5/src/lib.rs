//! The T5 encoder-decoder on candle tensors, with Hugging Face's names (Raffel et al. 2020,
//! "Exploring the Limits of Transfer Learning"; v1.1: Shazeer 2020, "GLU Variants").
//!
//! Owns configuration, weights, LoRA, the forward passes and the key and value cache. Losses,
//! decoding strategies and files belong to other crates.

mod attention;
mod bias;
mod cache;
mod config;
mod inference;
mod lora;
mod lora_targets;
mod model;
mod parameters;
mod sequences;
mod stack;

pub use cache::Cache;
pub use chatlm_kernels::{
    DropoutKeys, Gradients, Mapping, Precision, Projection, Rows, Sink, Stored, StoredBuilder,
    StoredKind, Tape, Value, best, cpu, has_kernels, write,
};
pub use config::Config;
pub use inference::{Session, WeightSource, Weights, is_small, weight_shapes};
pub use lora::{LoraBias, LoraConfig, LoraInit, MAGNITUDE, is_adapter};
pub use lora_targets::Names;
pub use model::{Model, Pass};
pub use parameters::{Parameters, is_copy};
pub use sequences::Sequences;

/// A candle error where the shapes are ours: a bug, or a device that gave up.
pub(crate) fn tensor_error(error: candle_core::Error) -> chatlm_job::Error {
    chatlm_job::Error::internal(error)
}
