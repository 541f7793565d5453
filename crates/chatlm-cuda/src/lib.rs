//! Our own kernels for NVIDIA GPUs (compute capability 8.0 and newer): the operators where a T5 spends
//! its time outside matrix products, which are cuBLAS's.
//!
//! Three layers, each tested without a GPU where it can be:
//!
//! - `kernels/*.cu`, compiled by nvcc under the feature `cuda`, and by a C++ compiler for the tests
//!   (`emulate/`), which run them on the processor.
//! - [`norm`], [`attention`], [`loss`] and so on: which kernels with which grids and arguments, over any
//!   [`Machine`]; the tests' machine is the emulator.
//! - `tensors`, under the feature `cuda`: the same over candle's tensors on a device.
//!
//! Every kernel is deterministic: no atomics, sums in an order that depends on sizes alone.

pub mod adafactor;
pub mod adamw;
pub mod attention;
pub mod decode;
pub mod embedding;
pub mod feedforward;
pub mod loss;
pub mod machine;
pub mod norm;
pub mod sums;
#[cfg(feature = "cuda")]
pub mod tensors;

pub use machine::{Arg, Call, Dropout, Element, Machine, Memory, Module};

/// The names of all kernels, a line each, as the addon must hold them.
pub const KERNELS: &str = include_str!("../kernels/names.txt");
