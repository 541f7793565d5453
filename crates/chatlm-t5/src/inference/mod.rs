//! Inference on the processor: weights that are only read, in any of four precisions, and a decoder
//! whose rows share what they have read. The training model's own steps are its twin.

mod encoder;
mod session;
mod weights;

pub use session::Session;
pub use weights::{WeightSource, Weights, is_small, weight_shapes};
