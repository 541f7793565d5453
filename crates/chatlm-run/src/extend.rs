//! More tokens for a tokenizer, and for the model that reads by it.
//!
//! The row of a new token is the mean of the rows of the pieces that the old tokenizer cut its text into, in
//! the shared embedding and in the head where that is a matrix of its own. Rows of the model beyond the
//! old vocabulary (padding of the embedding) are taken first.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use chatlm_checkpoint::{SaveOptions, load_model, save_model};
use chatlm_job::{AtomicDir, Code, Error, Job, Result, check_target};
use chatlm_t5::Parameters;
use chatlm_tokenizer::Extended;
use serde::Serialize;

#[derive(Debug, Clone)]
pub struct ExtendOptions {
    /// The tokenizer folder; left out, that of the model.
    pub tokenizer: Option<PathBuf>,
    pub tokens: Vec<String>,
    pub model: Option<PathBuf>,
    pub output: PathBuf,
    pub force: bool,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct ExtendReport {
    pub vocab_size: usize,
    pub added: usize,
    /// Rows of the model's embeddings; 0 without a model.
    pub rows: usize,
}

/// Writes a tokenizer folder, or with a model a whole model folder with the tokenizer in it.
pub fn extend(options: &ExtendOptions, job: &Job) -> Result<ExtendReport> {
    check_target(&options.output, options.force)?;
    let Some(folder) = options.tokenizer.as_ref().or(options.model.as_ref()) else {
        return Err(Error::new(
            Code::Usage,
            "there is nothing to extend",
            "give --tokenizer, --model or both",
        ));
    };
    let extended = Extended::new(folder, &options.tokens)?;
    let added = extended.pieces.len();
    let dir = AtomicDir::create(&options.output, options.force)?;
    let mut rows = 0;
    if let Some(model) = &options.model {
        let device = Device::Cpu;
        let mut model = load_model(model, &device)?;
        job.cancel.check()?;
        let old = extended.vocab_size - added;
        if model.config.vocab_size < old {
            return Err(Error::new(
                Code::ModelInvalid,
                format!(
                    "the model has {} rows, its tokenizer {old} tokens",
                    model.config.vocab_size
                ),
                "give the tokenizer that the model was trained with",
            ));
        }
        rows = model.config.vocab_size.max(extended.vocab_size);
        let tensors = model.parameters.iter().map(|(name, var)| {
            let tensor = var.as_tensor();
            let tensor = if name == "shared.weight" || name == "lm_head.weight" {
                with_rows(tensor, old, rows, &extended.pieces).map_err(Error::internal)?
            } else {
                tensor.clone()
            };
            Ok((name.to_owned(), tensor))
        });
        let tensors: BTreeMap<String, Tensor> = tensors.collect::<Result<_>>()?;
        model.config.vocab_size = rows;
        let parameters = Parameters::from_tensors(&model.config, tensors, &device)?;
        save_model(
            dir.path(),
            &model.config,
            &parameters,
            SaveOptions::default(),
        )?;
    }
    extended.write(dir.path())?;
    dir.commit()?;
    Ok(ExtendReport {
        vocab_size: extended.vocab_size,
        added,
        rows,
    })
}

/// The matrix with the means of `pieces` from row `first` on, and `rows` rows in all.
fn with_rows(
    matrix: &Tensor,
    first: usize,
    rows: usize,
    pieces: &[Vec<u32>],
) -> candle_core::Result<Tensor> {
    let mean = matrix.narrow(0, 0, first)?.mean_keepdim(0)?;
    let mut parts = vec![matrix.narrow(0, 0, first)?];
    for ids in pieces {
        // A token that the old tokenizer made nothing of is like all others.
        parts.push(if ids.is_empty() {
            mean.clone()
        } else {
            let ids = Tensor::new(ids.as_slice(), matrix.device())?;
            matrix.index_select(&ids, 0)?.mean_keepdim(0)?
        });
    }
    let used = first + pieces.len();
    if rows > used {
        parts.push(matrix.narrow(0, used, rows - used)?);
    }
    Tensor::cat(&parts, 0)
}
