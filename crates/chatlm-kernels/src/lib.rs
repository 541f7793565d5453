//! The operators of a T5 with their gradients, each beside its plain candle twin.
//!
//! On the processor in f32 the public functions run a kernel of their own (work in parallel, every
//! reduction in a fixed order, so any number of threads gives the same bits) and write their backward
//! on a [`Tape`]; under the feature `cuda` norm, attention and loss have kernels on NVIDIA GPUs
//! (chatlm-cuda); everywhere else they run the twin in [`plain`], on tensors there.

#![expect(
    clippy::inline_always,
    reason = "only what is inlined takes its caller's vector width"
)]

mod attention;
mod columns;
pub mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod dropout;
mod embedding;
mod gemm;
mod gradients;
mod layout;
mod linear;
mod math;
mod norm;
pub mod plain;
mod projected;
mod rows;
mod softmax;
mod step;
mod stored;
mod tape;
#[doc(hidden)]
pub mod testing;

pub use cpu::has_kernels;

pub use attention::{RelativeBias, attention};
pub use columns::{adapted_lengths, scaled_columns};
pub use dropout::{Drop, DropoutKeys, dropout, gated_gelu, relu, residual};
pub use embedding::embedding;
pub use gemm::Precision;
pub use gradients::{Gradients, Sink};
pub use layout::Rows;
pub use linear::linear;
pub use norm::rms_norm;
pub use projected::Projection;
pub use rows::write;
pub use softmax::{attention_probabilities, best};
pub use step::{
    Kept, Seen, Slots, add_rows, attend, gated_gelu_rows, keep, relu_rows, rms_norm_rows,
    stored_linear,
};
pub use stored::{Job, Mapping, Stored, StoredBuilder, StoredKind, largest, products};
pub use tape::{Tape, Value, Weight};
