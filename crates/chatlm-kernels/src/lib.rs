//! Operators with backward for candle, each beside its plain candle twin.
//!
//! On the processor in f32 the public functions run a kernel of their own (rows in parallel, every
//! reduction inside one row and in a fixed order, so any number of threads gives the same bits);
//! everywhere else they run the twin in [`plain`].

#![expect(
    clippy::inline_always,
    reason = "only what is inlined takes its caller's vector width"
)]

mod attention;
mod cross_entropy;
mod dropout;
mod linear;
mod math;
mod norm;
pub mod plain;
mod product;
mod projected;
mod rows;
mod softmax;

pub use attention::attention;
pub use cross_entropy::{cross_entropy, log_probabilities};
pub use dropout::{Drop, DropoutKeys, dropout, relu, residual};
pub use linear::{linear, linear_scaled};
pub use norm::rms_norm;
pub use projected::projected_cross_entropy;
pub use softmax::attention_probabilities;
