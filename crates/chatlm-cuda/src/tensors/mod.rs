//! The kernels over candle's tensors on an NVIDIA GPU. All tensors of a call are contiguous, on one
//! device and of one type (f32, f16 or bf16) unless said otherwise; what is wrong is an error before
//! anything runs. Kernels are queued on the device's stream: nothing waits unless a number is answered.

mod attention;
mod decode;
mod device;
mod embedding;
mod feedforward;
mod loss;
mod norm;
mod optim;

pub use attention::{Attended, AttentionGradients, Heads, attention, attention_backward};
pub use decode::{argmax, step_attention};
pub use device::{Session, element, supported};
pub use embedding::{embedding, embedding_backward};
pub use feedforward::{
    Places, dropout, gated_gelu, gated_gelu_backward, relu, relu_backward, residual,
};
pub use loss::{
    Projected, ProjectedGradients, cross_entropy, log_probabilities, projected_cross_entropy,
};
pub use norm::{Normed, rms_norm, rms_norm_backward};
pub use optim::{AdafactorMoments, adafactor, adamw, squared_norms};
