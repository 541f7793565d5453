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

/// Refuses a name that is no device, and a device that this build has not; of a list (`cuda:0,cuda:1`)
/// every name.
pub fn check_device(name: &str) -> Result<()> {
    name.split(',')
        .try_for_each(|name| name.parse::<Name>()?.built_in())
}

/// The device of this name: `cpu`, `cuda:N` or `metal`. Without one the best that this build has and this
/// machine opens.
pub(crate) fn open_device(name: Option<&str>) -> Result<Device> {
    match name {
        Some(name) if name.contains(',') => Err(Error::new(
            Code::Usage,
            format!("--device {name} names several devices, and one is used here"),
            "name one; several are for training with as many --workers",
        )
        .with("device", name)),
        Some(name) => name.parse::<Name>()?.open(),
        None => [Name::Cuda(0), Name::Metal]
            .into_iter()
            .find_map(|name| name.open().ok())
            .map_or_else(|| Name::Cpu.open(), Ok),
    }
}

/// The device of one of several workers on this machine: each trains on one of its own, the k-th on
/// `cuda:k` or on the k-th that is named. The processor is for all of them.
pub(crate) fn open_for_worker(
    name: Option<&str>,
    (place, workers): (usize, usize),
) -> Result<Device> {
    if workers < 2 {
        return open_device(name);
    }
    let names = of_workers(name, workers, cuda_devices())?;
    names.get(place).copied().unwrap_or(Name::Cpu).open()
}

/// A device for each worker of a machine with so many graphics cards.
fn of_workers(text: Option<&str>, workers: usize, cards: usize) -> Result<Vec<Name>> {
    let names = match text {
        None if cards > 0 => (0..cards).map(Name::Cuda).take(workers).collect(),
        None if cfg!(feature = "metal") => vec![Name::Metal],
        None => vec![Name::Cpu],
        Some("cuda") => {
            Name::Cuda(0).built_in()?;
            (0..cards).map(Name::Cuda).take(workers).collect()
        }
        Some(list) => {
            check_device(list)?;
            list.split(',')
                .map(str::parse)
                .collect::<Result<Vec<Name>>>()?
        }
    };
    if names == [Name::Cpu] {
        return Ok(vec![Name::Cpu; workers]);
    }
    let told = names
        .iter()
        .map(Name::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let refuse = |what: String, help: String| {
        Error::new(Code::ConfigInvalid, what, help).with("field", "workers")
    };
    if !names.iter().all(|name| matches!(name, Name::Cuda(_))) && names.len() > 1 {
        return Err(refuse(
            format!("--device {told}: a list names NVIDIA GPUs alone"),
            "all workers train on the processor (cpu), or each on a GPU of its own (cuda:0,cuda:1)"
                .to_owned(),
        ));
    }
    if let Some(twice) = (1..names.len()).find(|&at| names[..at].contains(&names[at])) {
        return Err(refuse(
            format!("--device {told} names {} twice", names[twice]),
            "each worker trains on a device of its own".to_owned(),
        ));
    }
    match names.len() {
        count if count == workers => Ok(names),
        0 => Err(refuse(
            "this machine has no graphics card that CUDA knows".to_owned(),
            "use --device cpu".to_owned(),
        )),
        count => Err(refuse(
            format!(
                "{workers} workers on this machine, and {count} {} for them: {told}",
                if count == 1 { "device" } else { "devices" }
            ),
            format!(
                "set workers to {count}, name as many devices (--device cuda:0,cuda:1), or use --device cpu"
            ),
        )),
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
    fn each_worker_has_a_device_of_its_own() {
        let names = |text, workers, cards| {
            let found = of_workers(text, workers, cards);
            found.map(|names| names.iter().map(Name::to_string).collect::<Vec<_>>())
        };
        // Whatever this build has: what a machine without cards does, and what is refused.
        if !cfg!(feature = "metal") {
            assert_eq!(names(None, 3, 0).unwrap(), ["cpu"; 3]);
        }
        assert_eq!(names(Some("cpu"), 2, 4).unwrap(), ["cpu"; 2]);
        assert_eq!(names(None, 2, 2).unwrap(), ["cuda:0", "cuda:1"]);
        assert_eq!(names(None, 2, 8).unwrap(), ["cuda:0", "cuda:1"]);
        let refused = |text, workers, cards: usize, what: &str| {
            let error = names(text, workers, cards).unwrap_err();
            assert_eq!(error.code(), Code::ConfigInvalid, "{error}");
            assert!(error.message().contains(what), "{error}");
        };
        refused(
            None,
            3,
            2,
            "3 workers on this machine, and 2 devices for them: cuda:0,cuda:1",
        );
        refused(Some("cpu,cpu"), 2, 0, "GPUs alone");
        if cfg!(feature = "cuda") {
            assert_eq!(names(Some("cuda"), 2, 8).unwrap(), ["cuda:0", "cuda:1"]);
            assert_eq!(
                names(Some("cuda:3,cuda:1"), 2, 4).unwrap(),
                ["cuda:3", "cuda:1"]
            );
            refused(Some("cuda"), 2, 0, "no graphics card");
            refused(Some("cuda"), 2, 1, "1 device for them: cuda:0");
            refused(Some("cuda:0"), 2, 4, "1 device for them: cuda:0");
            refused(Some("cuda:0,cuda:1,cuda:2"), 2, 4, "3 devices");
            refused(Some("cuda:1,cuda:1"), 2, 4, "names cuda:1 twice");
            refused(Some("cpu,cuda:1"), 2, 4, "GPUs alone");
        } else {
            for text in ["cuda", "cuda:0,cuda:1"] {
                let error = names(Some(text), 2, 4).unwrap_err();
                assert_eq!(error.code(), Code::DeviceUnavailable, "{error}");
            }
        }
        assert_eq!(
            names(Some("cpu,toaster"), 2, 0).unwrap_err().code(),
            Code::Usage
        );
    }

    #[test]
    fn several_devices_are_for_several_workers() {
        let error = open_for_worker(Some("cuda:0,cuda:1"), (0, 1)).unwrap_err();
        assert_eq!(error.code(), Code::Usage);
        assert!(error.help().contains("--workers"), "{error}");
        assert!(open_for_worker(Some("cpu"), (1, 2)).unwrap().is_cpu());
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
