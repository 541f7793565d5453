//! The on-disk formats of the model branch: checkpoints with manifest, hashes, atomic commit and
//! retention; Hugging Face model folders in and out; PEFT adapter folders in and out.
//!
//! Formats follow safetensors' specification, `transformers`' `save_pretrained` and PEFT's
//! `save_pretrained`; what a training run keeps in a checkpoint is the trainer's business.

mod adapter;
mod adapter_config;
mod inference;
mod model;
mod store;
mod tensors;

pub use adapter::{load_adapter, merge, remove, save_adapter, unmerge};
pub use inference::{InferenceFolder, find_not_finite, load_weights, save_int8};
pub use model::{ModelFolder, SaveOptions, load_model, save_model};
pub use store::{Checkpoints, Files, Loaded, Snapshot, size_of};
pub use tensors::{
    AsPiece, Piece, TensorFile, read_safetensors, to_safetensors, write_safetensors,
};
