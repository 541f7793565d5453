//! AdamW as PyTorch has it, Adafactor as transformers has it, learning-rate schedules and clipping
//! by global norm, all on slices. The whole state of an optimizer can be saved and restored to the
//! bit; results depend neither on the number of threads nor on the processor's vector width.

#![expect(
    clippy::inline_always,
    reason = "only what is inlined takes its caller's vector width"
)]

mod adafactor;
mod adamw;
mod clip;
mod optimizer;
mod schedule;
mod vector;

pub use clip::{clip_scale, squared_norm};
pub use optimizer::{Optimizer, OptimizerConfig, STEP};
pub use schedule::{Schedule, ScheduleKind};
