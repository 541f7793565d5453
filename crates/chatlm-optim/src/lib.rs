//! AdamW as PyTorch has it, Adafactor as transformers has it, learning-rate schedules and clipping
//! by global norm. The whole state of an optimizer can be saved and restored to the bit.

mod adafactor;
mod adamw;
mod clip;
mod optimizer;
mod schedule;
mod state;

pub use clip::clip;
pub use optimizer::{Optimizer, OptimizerConfig};
pub use schedule::{Schedule, ScheduleKind};
