//! Writes the 0.2 B model with random weights as a model folder, for scripts that compare with it:
//! `cargo run --release -p chatlm-checkpoint --example random_model -- FOLDER SEED`.

use std::path::PathBuf;

use candle_core::Device;
use chatlm_checkpoint::{SaveOptions, save_model};
use chatlm_job::{Code, Error, Result};
use chatlm_t5::{Config, Parameters};

fn main() -> Result<()> {
    let usage = || Error::new(Code::Usage, "two arguments are needed", "FOLDER SEED");
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or_else(usage)?);
    let seed = arguments.next().ok_or_else(usage)?;
    let seed = seed.parse().map_err(|_| usage())?;
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&e, "create", &folder))?;
    let config = Config::chatlm(29_298);
    let parameters = Parameters::random(&config, seed, &Device::Cpu)?;
    save_model(&folder, &config, &parameters, SaveOptions::default())
}
