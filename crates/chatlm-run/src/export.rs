//! A model folder in another precision.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use chatlm_checkpoint::{SaveOptions, load_model, save_int8, save_model};
use chatlm_job::{AtomicDir, Error, Job, Result, check_target};
use chatlm_tokenizer::Tokenizer;

/// What to write.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    pub model: PathBuf,
    pub output: PathBuf,
    /// `f32`, `f16`, `bf16`, or `int8`, which only this program reads.
    pub dtype: String,
    pub force: bool,
}

#[derive(Debug, Clone)]
pub struct ExportReport {
    pub dtype: String,
    /// Of the folder's files.
    pub bytes: u64,
    pub seconds: f64,
}

/// Writes the model with its tokenizer and generation settings to a folder of its own.
pub fn export(options: &ExportOptions, job: &Job) -> Result<ExportReport> {
    let started = Instant::now();
    check_target(&options.output, options.force)?;
    let tokenizer = Tokenizer::load(&options.model)?;
    let dir = AtomicDir::create(&options.output, options.force)?;
    job.progress.report("export", 0, None, "bytes");
    if options.dtype == "int8" {
        save_int8(&options.model, dir.path())?;
    } else {
        let save = SaveOptions::with_dtype(&options.dtype)?;
        let folder = load_model(&options.model, &Device::Cpu)?;
        job.cancel.check()?;
        save_model(dir.path(), &folder.config, &folder.parameters, save)?;
        // The model's own, where it has one.
        let name = "generation_config.json";
        let (from, to) = (options.model.join(name), dir.path().join(name));
        if from.exists() {
            std::fs::copy(&from, to).map_err(|e| Error::io(&e, "copy", &from))?;
        }
    }
    job.cancel.check()?;
    tokenizer.copy_to(dir.path())?;
    let bytes = size(dir.path())?;
    dir.commit()?;
    Ok(ExportReport {
        dtype: options.dtype.clone(),
        bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn size(dir: &Path) -> Result<u64> {
    let failed = |error: std::io::Error| Error::io(&error, "read", dir);
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        bytes += entry
            .and_then(|entry| entry.metadata())
            .map_err(failed)?
            .len();
    }
    Ok(bytes)
}
