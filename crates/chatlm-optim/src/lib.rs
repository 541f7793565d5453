//! AdamW as PyTorch has it, Adafactor as transformers has it, learning-rate schedules and clipping
//! by global norm: on slices, and on tensors of any device. The whole state of an optimizer can be
//! saved and restored to the bit, also on another device; on slices results depend neither on the
//! number of threads nor on the processor's vector width.

#![expect(
    clippy::inline_always,
    reason = "only what is inlined takes its caller's vector width"
)]

mod adafactor;
mod adamw;
mod clip;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod optimizer;
mod schedule;
mod vector;

pub use clip::{clip_scale, squared_norm};
pub use device::squared_norm_of;
pub use optimizer::{Optimizer, OptimizerConfig, Part, STEP, Source};
pub use schedule::{Schedule, ScheduleKind};
