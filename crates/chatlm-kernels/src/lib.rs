//! Operators with backward for candle, each beside its plain candle twin.
//!
//! On the processor in f32 the public functions run a kernel of their own (rows in parallel, every
//! reduction inside one row and in a fixed order, so any number of threads gives the same bits);
//! everywhere else they run the twin in [`plain`].

mod attention;
mod cross_entropy;
mod dropout;
mod linear;
mod math;
mod norm;
pub mod plain;
mod rows;

pub use attention::attention_probabilities;
pub use cross_entropy::{cross_entropy, log_probabilities};
pub use dropout::{DropoutKeys, dropout};
pub use linear::linear;
pub use norm::rms_norm;
