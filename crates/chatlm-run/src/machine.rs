//! What this build and machine have: for `doctor` and for the thread count.

use std::fs;

use chatlm_job::{Code, Error, Result};
use serde::Serialize;

/// The answer of `doctor`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Doctor {
    pub version: String,
    /// The processor path in use: the widest there is, or what `CHATLM_CPU` says.
    pub cpu: String,
    pub features: Vec<String>,
    pub threads: usize,
    pub devices: Vec<String>,
    pub memory_bytes: u64,
    pub peak_rss_bytes: u64,
}

/// Fails where `CHATLM_CPU` names no path of this processor.
pub fn doctor() -> Result<Doctor> {
    chatlm_t5::cpu::check()?;
    let features = features();
    Ok(Doctor {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cpu: chatlm_t5::cpu::cpu().name().to_owned(),
        threads: rayon::current_num_threads(),
        devices: crate::device::devices(),
        memory_bytes: proc_kib("/proc/meminfo", "MemTotal:") * 1024,
        peak_rss_bytes: peak_rss_bytes(),
        features,
    })
}

/// The most memory this process has held (`VmHWM`), Node included; 0 where it is not told.
pub fn peak_rss_bytes() -> u64 {
    proc_kib("/proc/self/status", "VmHWM:") * 1024
}

/// The memory this process holds now, Node included; 0 where it is not told.
pub(crate) fn rss_bytes() -> u64 {
    proc_kib("/proc/self/status", "VmRSS:") * 1024
}

/// Memory that the machine, or the container this runs in, can give out without swapping; 0 where it is not
/// told.
pub(crate) fn available_bytes() -> u64 {
    let machine = proc_kib("/proc/meminfo", "MemAvailable:") * 1024;
    let read = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let container = read("memory.max")
        .zip(read("memory.current"))
        .map(|(most, now)| most.saturating_sub(now));
    container.map_or(machine, |left| machine.min(left))
}

fn proc_kib(file: &str, field: &str) -> u64 {
    fs::read_to_string(file)
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<String> {
    let mut found = Vec::new();
    macro_rules! look {
        ($($name:tt),*) => { $(if std::is_x86_feature_detected!($name) { found.push($name.to_owned()); })* };
    }
    look!(
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512vnni",
        "avx512bf16"
    );
    found
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<String> {
    Vec::new()
}

/// Sets the size of the thread pool that all stages share; 0 is one thread a core.
pub fn set_threads(threads: usize) -> Result<()> {
    let set = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global();
    if set.is_ok() || rayon::current_num_threads() == threads {
        return Ok(());
    }
    Err(Error::new(
        Code::Usage,
        "the number of threads was set after work had begun",
        "set it once, before anything else is called",
    ))
}
