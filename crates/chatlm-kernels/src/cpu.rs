//! Which code path runs: the widest that the processor has, unless `CHATLM_CPU` names another.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

use candle_core::Device;
use chatlm_job::{Code, Error, Result};

/// Code paths of the matrix kernels, each including those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cpu {
    /// No kernel of this crate: candle's operators alone, the path of devices without kernels. Slow here,
    /// and there to be tested and compared.
    Twin,
    /// What the compiler makes of plain loops, on every processor.
    Plain,
    Avx2,
    Avx512,
    /// AVX-512 with bf16 products (`vdpbf16ps`).
    Avx512Bf16,
}

/// The variable that forces a path.
const VARIABLE: &str = "CHATLM_CPU";

impl Cpu {
    /// All that have kernels.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    pub fn name(self) -> &'static str {
        match self {
            Self::Twin => "twin",
            Self::Plain => "plain",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Whether this processor can run the path.
    #[cfg(target_arch = "x86_64")]
    pub fn available(self) -> bool {
        match self {
            Self::Twin | Self::Plain => true,
            Self::Avx2 => {
                std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma")
            }
            Self::Avx512 => {
                Self::Avx2.available()
                    && std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512bw")
                    && std::is_x86_feature_detected!("avx512vl")
            }
            Self::Avx512Bf16 => {
                Self::Avx512.available() && std::is_x86_feature_detected!("avx512bf16")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn available(self) -> bool {
        self <= Self::Plain
    }

    /// The widest path of this processor.
    pub fn widest() -> Self {
        let mut found = Self::Plain;
        for cpu in Self::ALL {
            if cpu.available() {
                found = cpu;
            }
        }
        found
    }

    /// The path that a value of `CHATLM_CPU` names.
    fn forced(value: &str) -> Result<Self> {
        let refuse = |code: Code, what: String, help: String| {
            Err(Error::new(code, what, help).with("field", VARIABLE))
        };
        let all = || Self::ALL.into_iter().chain([Self::Twin]);
        let names = || all().map(Self::name).collect::<Vec<_>>().join(", ");
        match all().find(|cpu| cpu.name() == value) {
            Some(cpu) if cpu.available() => Ok(cpu),
            Some(_) => refuse(
                Code::PrecisionUnavailable,
                format!("{VARIABLE} is {value}, which this processor does not have"),
                format!("the widest it has is {}", Self::widest().name()),
            ),
            None => refuse(
                Code::Usage,
                format!("{VARIABLE} is {value:?}, which is no path"),
                format!("use one of {}, or leave it out", names()),
            ),
        }
    }
}

fn chosen() -> &'static Result<Cpu> {
    static CHOSEN: OnceLock<Result<Cpu>> = OnceLock::new();
    CHOSEN.get_or_init(|| match std::env::var(VARIABLE) {
        Ok(value) if !value.is_empty() => Cpu::forced(&value),
        _ => Ok(Cpu::widest()),
    })
}

/// Refuses a `CHATLM_CPU` that makes no sense here; to be asked before any work.
pub fn check() -> Result<()> {
    match chosen() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.clone()),
    }
}

/// The path in use.
pub fn cpu() -> Cpu {
    chosen().as_ref().copied().unwrap_or(Cpu::Plain)
}

thread_local! {
    /// How many guards of [`twins_only`] this thread holds.
    static TWINS: Cell<usize> = const { Cell::new(0) };
}

/// As long as it lives, this thread takes the processor for a device without kernels.
#[doc(hidden)]
#[derive(Debug)]
pub struct TwinsOnly(PhantomData<*const ()>);

/// What `CHATLM_CPU=twin` does, for one thread: how tests compare the two paths.
#[doc(hidden)]
#[must_use]
pub fn twins_only() -> TwinsOnly {
    TWINS.with(|guards| guards.set(guards.get() + 1));
    TwinsOnly(PhantomData)
}

impl Drop for TwinsOnly {
    fn drop(&mut self) {
        TWINS.with(|guards| guards.set(guards.get() - 1));
    }
}

/// Whether the kernels of this crate run on a device: on the processor, unless candle's operators alone
/// are asked for. What they write lies in plain memory, not in tensors.
pub fn has_kernels(device: &Device) -> bool {
    device.is_cpu() && cpu() != Cpu::Twin && TWINS.with(Cell::get) == 0
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_by_name_and_strange_ones_refused() {
        assert_eq!(Cpu::forced("plain").unwrap(), Cpu::Plain);
        assert_eq!(Cpu::forced("twin").unwrap(), Cpu::Twin);
        let error = Cpu::forced("sse9").unwrap_err();
        assert_eq!(error.code(), Code::Usage);
        assert!(error.help().contains("avx512bf16"), "{error}");
        assert!(Cpu::widest().available());
    }

    #[test]
    fn a_guard_holds_for_its_thread_and_its_life() {
        let before = has_kernels(&Device::Cpu);
        {
            let _outer = twins_only();
            drop(twins_only());
            assert!(!has_kernels(&Device::Cpu));
            let elsewhere = std::thread::spawn(|| has_kernels(&Device::Cpu));
            assert_eq!(elsewhere.join().unwrap(), before);
        }
        assert_eq!(has_kernels(&Device::Cpu), before);
    }
}
