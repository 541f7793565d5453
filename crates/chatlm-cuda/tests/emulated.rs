//! The kernels' own files, run by the processor, against what their definitions say in f64, in several
//! orders of threads. Needs a C++ compiler, no GPU.
#![cfg_attr(
    emulated,
    expect(clippy::unwrap_used, clippy::float_cmp, reason = "tests")
)]

#[cfg(emulated)]
mod common;
#[cfg(emulated)]
mod emulated {
    mod attention;
    mod decode;
    mod feedforward;
    mod loss;
    mod names;
    mod norm;
    mod optim;
}

#[cfg(not(emulated))]
#[test]
fn skipped() {
    let _ = "no C++ compiler, or the feature cuda is on: the kernels are not emulated";
}
