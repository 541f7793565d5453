//! What the numerical tests of all crates share: the device they run on.
#![doc(hidden)]

use candle_core::Device;

pub use crate::cpu::{TwinsOnly, twins_only};

/// Names the device of the tests: `cpu` (where left out), or `cuda`.
const VARIABLE: &str = "CHATLM_TEST_DEVICE";

/// The device that tests compute on.
///
/// Panics where this build or machine has not the one that is asked for.
pub fn device() -> Device {
    let name = std::env::var(VARIABLE).unwrap_or_default();
    match name.as_str() {
        "" | "cpu" => Device::Cpu,
        "cuda" if cfg!(feature = "cuda") => cuda(),
        "cuda" => panic!(
            "{VARIABLE} is cuda, but this build has no feature cuda: run npm test, or cargo test with \
             --features cuda"
        ),
        other => panic!("{VARIABLE} is {other:?}: use cpu or cuda"),
    }
}

/// Opened once: tensors of two openings of one device do not mix.
fn cuda() -> Device {
    static OPEN: std::sync::OnceLock<Device> = std::sync::OnceLock::new();
    OPEN.get_or_init(|| match Device::new_cuda(0) {
        Ok(device) => device,
        Err(error) => panic!("{VARIABLE} is cuda, and the first device does not open: {error}"),
    })
    .clone()
}
