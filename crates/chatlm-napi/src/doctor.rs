//! What this build and machine have.

use napi_derive::napi;

#[napi(object)]
pub struct Doctor {
    pub version: String,
    /// The processor path in use.
    pub cpu: String,
    /// Processor features found.
    pub features: Vec<String>,
    pub threads: u32,
    /// Devices this build can use on this machine.
    pub devices: Vec<String>,
    pub memory_bytes: i64,
    /// The most memory this process has held.
    pub peak_rss_bytes: i64,
}

/// Versions, processor, devices, memory and threads.
#[napi(catch_unwind)]
pub fn doctor() -> napi::Result<Doctor> {
    let report = crate::error::guarded(chatlm_run::doctor)?;
    Ok(Doctor {
        version: report.version,
        cpu: report.cpu,
        features: report.features,
        threads: report.threads as u32,
        devices: report.devices,
        memory_bytes: report.memory_bytes as i64,
        peak_rss_bytes: report.peak_rss_bytes as i64,
    })
}

/// Rejects with `USAGE` what is no device, and with `DEVICE_UNAVAILABLE` one that this build has not.
#[napi(catch_unwind)]
pub fn check_device(device: String) -> napi::Result<()> {
    crate::error::guarded(|| chatlm_run::check_device(&device))
}

/// Sets the number of threads; only before the first call that uses any. 0 is all.
#[napi(catch_unwind)]
pub fn set_threads(threads: u32) -> napi::Result<()> {
    crate::error::guarded(|| chatlm_run::set_threads(threads as usize))
}
