//! The proof of exact resume on the user's own configuration: one run in one go, one in two, and
//! every part of their states compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use chatlm_job::{Code, Error, Job, Result, sha256_bytes, sha256_file};
use serde::Serialize;
use serde_json::{Value, json};

use crate::setup::RunKind;
use crate::training::{RunOptions, TrainingRun};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResumeReport {
    pub equal: bool,
    /// Each file of the checkpoint, and each part of its state.
    pub parts: BTreeMap<String, bool>,
}

/// Trains `steps` steps whole and `at` + the rest, in temporary folders under the run's `out`.
pub fn verify_resume(
    kind: RunKind,
    config: Value,
    steps: u64,
    at: u64,
    device: Option<&str>,
    job: &Job,
) -> Result<ResumeReport> {
    if at == 0 || at >= steps {
        return Err(Error::new(
            Code::Usage,
            format!("--at {at} is not between 0 and --steps {steps}"),
            "stop somewhere inside, such as --steps 6 --at 3",
        ));
    }
    let out = config["out"].as_str().unwrap_or("out").to_owned();
    let folder = Path::new(&out).join(".verify-resume");
    let result = compare(kind, config, (steps, at), device, job, &folder);
    // Whatever came of it, the trial runs are not kept.
    let _ = fs::remove_dir_all(&folder);
    result
}

fn compare(
    kind: RunKind,
    config: Value,
    (steps, at): (u64, u64),
    device: Option<&str>,
    job: &Job,
    folder: &Path,
) -> Result<ResumeReport> {
    let train = |name: &str, parts: &[u64]| -> Result<BTreeMap<String, String>> {
        let mut config = config.clone();
        config["out"] = json!(folder.join(name));
        config["maxSteps"] = json!(steps);
        config["saveEvery"] = json!(0);
        config["workers"] = json!(1);
        config["valid"] = Value::Null;
        for &part in parts {
            let options = RunOptions {
                fresh: false,
                force: false,
                from: None,
                device: device.map(str::to_owned),
                worker: None,
            };
            let mut run = TrainingRun::open(kind, config.clone(), options, job.clone())?;
            while run.step() < part {
                job.cancel.check()?;
                run.advance(part - run.step())?;
                job.progress
                    .report("verify", run.step(), Some(steps), "steps");
            }
            run.interrupt()?;
        }
        fingerprints(
            &folder
                .join(name)
                .join("checkpoints")
                .join(format!("step-{steps:08}")),
        )
    };
    let _ = fs::remove_dir_all(folder);
    let whole = train("whole", &[steps])?;
    let halves = train("halves", &[at, steps])?;
    let parts: BTreeMap<String, bool> = whole
        .iter()
        .map(|(name, hash)| (name.clone(), halves.get(name) == Some(hash)))
        .collect();
    Ok(ResumeReport {
        equal: parts.values().all(|&same| same),
        parts,
    })
}

/// A hash of every tensor file, and of every part of the state but the clock's.
fn fingerprints(checkpoint: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(checkpoint).map_err(|e| Error::io(&e, "read", checkpoint))? {
        let path = entry.map_err(|e| Error::io(&e, "read", checkpoint))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if let Some(stem) = name.strip_suffix(".safetensors") {
            found.insert(stem.to_owned(), sha256_file(&path)?);
        }
    }
    let file = checkpoint.join("state.json");
    let text = fs::read(&file).map_err(|e| Error::io(&e, "read", &file))?;
    let state: Value = serde_json::from_slice(&text).map_err(Error::internal)?;
    for (name, value) in state["run"].as_object().into_iter().flatten() {
        let mut value = value.clone();
        if let Value::Object(fields) = &mut value {
            // The window's clock is the only thing two runs may differ in.
            fields.remove("seconds");
        }
        if !name.ends_with("Bytes") {
            found.insert(name.clone(), sha256_bytes(value.to_string().as_bytes()));
        }
    }
    Ok(found)
}
