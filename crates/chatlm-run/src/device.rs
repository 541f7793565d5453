//! The device that a model runs on: its name on the command line, what this build and machine have, and
//! the opened device.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use chatlm_job::{Code, Error, Result};

/// A device by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Cpu,
    Cuda(usize),
    Metal,
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        let name = match (text, text.strip_prefix("cuda:")) {
            ("cpu", _) => Some(Self::Cpu),
            ("metal", _) => Some(Self::Metal),
            ("cuda", _) => Some(Self::Cuda(0)),
            (_, Some(rest)) => number(rest).map(Self::Cuda),
            _ => None,
        };
        name.ok_or_else(|| {
            Error::new(
                Code::Usage,
                format!("--device {text} is no device"),
                "use cpu, cuda:N or metal",
            )
            .with("device", text)
        })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(number) => write!(formatter, "cuda:{number}"),
            Self::Metal => formatter.write_str("metal"),
        }
    }
}

impl Name {
    /// Refuses what this build cannot open, whatever the machine has.
    fn built_in(self) -> Result<()> {
        let (there, help) = match self {
            Self::Cpu => (true, ""),
            Self::Cuda(_) => (
                cfg!(feature = "cuda"),
                "use --device cpu, or make a build for NVIDIA graphics cards: npm run build:cuda",
            ),
            Self::Metal => (
                cfg!(feature = "metal"),
                "use --device cpu, or build on a Mac with the feature metal of chatlm-napi",
            ),
        };
        if there {
            return Ok(());
        }
        let what = format!("this build has no device {self}");
        Err(Error::new(Code::DeviceUnavailable, what, help).with("device", self.to_string()))
    }

    fn open(self) -> Result<Device> {
        // Opened once: tensors of two openings of one device do not mix.
        static OPEN: Mutex<BTreeMap<Name, Device>> = Mutex::new(BTreeMap::new());
        self.built_in()?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = open.get(&self) {
            return Ok(device.clone());
        }
        let device = match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => Device::new_cuda(number),
            Self::Metal => Device::new_metal(0),
        };
        let device = device.map_err(|error| {
            Error::new(
                Code::DeviceUnavailable,
                format!("device {self} does not open: {error}"),
                format!("this machine has {}", devices().join(", ")),
            )
            .with("device", self.to_string())
        })?;
        open.insert(self, device.clone());
        Ok(device)
    }
}

/// Refuses a name that is no device, and a device that this build has not.
pub fn check_device(name: &str) -> Result<()> {
    name.parse::<Name>()?.built_in()
}

/// The device of this name: `cpu`, `cuda:N` or `metal`. Without one the best that this build has and this
/// machine opens.
pub(crate) fn open_device(name: Option<&str>) -> Result<Device> {
    match name {
        Some(name) => name.parse::<Name>()?.open(),
        None => [Name::Cuda(0), Name::Metal]
            .into_iter()
            .find_map(|name| name.open().ok())
            .map_or_else(|| Name::Cpu.open(), Ok),
    }
}

/// The devices that this build can use on this machine, the processor first.
pub(crate) fn devices() -> Vec<String> {
    let cards = (0..cuda_devices()).map(Name::Cuda);
    let metal = cfg!(feature = "metal").then_some(Name::Metal);
    std::iter::once(Name::Cpu)
        .chain(cards)
        .chain(metal)
        .map(|name| name.to_string())
        .collect()
}

/// Counted without opening any: an open one takes some hundred megabytes.
#[cfg(feature = "cuda")]
fn cuda_devices() -> usize {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    CudaContext::device_count().map_or(0, |count| count.max(0) as usize)
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> usize {
    0
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_strange_ones_are_wrong_usage() {
        for (text, name) in [
            ("cpu", Name::Cpu),
            ("cuda", Name::Cuda(0)),
            ("cuda:3", Name::Cuda(3)),
            ("metal", Name::Metal),
        ] {
            assert_eq!(text.parse::<Name>().unwrap(), name);
        }
        for text in [
            "", "toaster", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "CPU",
        ] {
            let error = text.parse::<Name>().unwrap_err();
            assert_eq!(error.code(), Code::Usage, "{text}");
        }
    }

    #[test]
    fn what_is_not_built_in_is_refused_with_the_build_that_has_it() {
        assert!(open_device(Some("cpu")).unwrap().is_cpu());
        assert!(open_device(None).is_ok());
        assert_eq!(devices()[0], "cpu");
        if !cfg!(feature = "cuda") {
            let error = open_device(Some("cuda:0")).unwrap_err();
            assert_eq!(error.code(), Code::DeviceUnavailable);
            assert!(error.help().contains("npm run build:cuda"), "{error}");
            assert!(check_device("cuda:0").is_err());
            assert!(open_device(None).unwrap().is_cpu());
        }
    }
}
