//! More tokens for a tokenizer, and for the model that reads by it.
//!
//! The row of a new token is the mean of the rows of the pieces that the old tokenizer cut its text into, in
//! the shared embedding and in the head where that is a matrix of its own. Rows of the model beyond the
//! old vocabulary (padding of the embedding) are taken first. All other weights, and the precision they are
//! stored in, stay.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use chatlm_checkpoint::{SaveOptions, load_model, load_weights, save_model};
use chatlm_job::{AtomicDir, Code, Error, Job, Result, check_target};
use chatlm_t5::{Parameters, StoredKind};
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
    if let Some(folder) = &options.model {
        let device = Device::Cpu;
        job.progress
            .report("extend", 0, Some(added as u64), "tokens");
        let mut model = load_model(folder, &device)?;
        job.cancel.check()?;
        let old = extended.vocab_size - added;
        if model.config.vocab_size < old {
            return Err(Error::new(
                Code::ModelInvalid,
                format!(
                    "{}: the model has {} rows, its tokenizer {old} tokens",
                    folder.display(),
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
        let save = SaveOptions::with_dtype(stored(folder)?)?;
        save_model(dir.path(), &model.config, &parameters, save)?;
        let name = "generation_config.json";
        let (from, to) = (folder.join(name), dir.path().join(name));
        if from.exists() {
            std::fs::copy(&from, to).map_err(|e| Error::io(&e, "copy", &from))?;
        }
    }
    job.cancel.check()?;
    extended.write(dir.path())?;
    dir.commit()?;
    Ok(ExtendReport {
        vocab_size: extended.vocab_size,
        added,
        rows,
    })
}

/// The precision of a folder's weights.
fn stored(folder: &Path) -> Result<&'static str> {
    Ok(match load_weights(folder, None)?.kind {
        StoredKind::F16 => "f16",
        StoredKind::Bf16 => "bf16",
        _ => "f32",
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::merge::probe;
    use chatlm_t5::{Config, Model};
    use chatlm_tokenizer::{Preset, Tokenizer, TrainOptions, train};

    const TEXT: &str = "床前明月光，疑是地上霜。举头望明月，低头思故乡。";

    /// A model of random weights with rows to spare, and its tokenizer.
    fn model(folder: &Path, dtype: &str, tied: bool, spare: usize) -> usize {
        let options = TrainOptions {
            preset: Preset::CharBpe,
            vocab_size: 60,
            min_frequency: 1,
            max_memory: None,
            files: None,
        };
        let texts = std::iter::once(Ok(TEXT.to_owned()));
        let report = train(texts, &options, folder, false, &Job::quiet()).unwrap();
        let config = Config {
            vocab_size: report.vocab_size as usize + spare,
            d_model: 16,
            d_kv: 4,
            d_ff: 24,
            num_layers: 1,
            num_heads: 4,
            tie_word_embeddings: tied,
            ..Config::default()
        };
        let parameters = Parameters::random(&config, 5, &Device::Cpu).unwrap();
        let save = SaveOptions::with_dtype(dtype).unwrap();
        save_model(folder, &config, &parameters, save).unwrap();
        std::fs::write(
            folder.join("generation_config.json"),
            "{\"max_new_tokens\": 7}",
        )
        .unwrap();
        report.vocab_size as usize
    }

    fn logits(folder: &Path, vocabulary: usize) -> Vec<Vec<f32>> {
        let folder = load_model(folder, &Device::Cpu).unwrap();
        let model = Model::new(&folder.config, &folder.parameters, None).unwrap();
        let logits = probe(&model, vocabulary).unwrap();
        let logits = logits.narrow(1, 0, vocabulary).unwrap();
        logits.to_vec2().unwrap()
    }

    fn rows(folder: &Path, name: &str) -> Vec<Vec<f32>> {
        let folder = load_model(folder, &Device::Cpu).unwrap();
        let mut all = folder.parameters.iter();
        let (_, matrix) = all.find(|(known, _)| *known == name).unwrap();
        matrix.as_tensor().to_vec2().unwrap()
    }

    #[test]
    fn logits_of_old_tokens_do_not_change() {
        for (dtype, tied, spare) in [
            ("f32", false, 0),
            ("f32", true, 2),
            ("bf16", false, 0),
            ("bf16", true, 9),
            ("f16", false, 1),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (from, output) = (folder.path().join("from"), folder.path().join("out"));
            let old = model(&from, dtype, tied, spare);
            let tokens = ["明月明", "霜乡", "量", "明月明"].map(str::to_owned);
            let options = ExtendOptions {
                tokenizer: None,
                tokens: tokens.to_vec(),
                model: Some(from.clone()),
                output: output.clone(),
                force: false,
            };
            let report = extend(&options, &Job::quiet()).unwrap();
            let grown = old + spare.max(3);
            assert_eq!((report.added, report.rows), (3, grown), "{dtype} {tied}");
            assert_eq!(report.vocab_size, old + 3);
            assert_eq!(logits(&output, old), logits(&from, old), "{dtype} {tied}");
            assert_eq!(stored(&output).unwrap(), dtype);
            let generation = std::fs::read_to_string(output.join("generation_config.json"));
            assert!(generation.unwrap().contains('7'));
            let tokenizer = Tokenizer::load(&output).unwrap();
            let pieces = Tokenizer::load(&from).unwrap().encode("霜乡").unwrap();
            assert_eq!(
                *tokenizer.encode("霜乡").unwrap().last().unwrap(),
                old as u32 + 1
            );
            let shared = rows(&output, "shared.weight");
            assert_eq!(shared.len(), grown);
            for (at, value) in shared[old + 1].iter().enumerate() {
                let sum: f32 = pieces.iter().map(|id| shared[*id as usize][at]).sum();
                let mean = sum / pieces.len() as f32;
                assert!((value - mean).abs() <= mean.abs() / 128.0, "{value} {mean}");
            }
            if !tied {
                assert_eq!(rows(&output, "lm_head.weight").len(), grown);
            }
        }
    }

    #[test]
    fn a_model_with_fewer_rows_than_tokens_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (small, large) = (folder.path().join("small"), folder.path().join("large"));
        model(&small, "f32", true, 0);
        let options = TrainOptions {
            preset: Preset::ByteBpe,
            vocab_size: 300,
            min_frequency: 1,
            max_memory: None,
            files: None,
        };
        let texts = std::iter::once(Ok(TEXT.to_owned()));
        train(texts, &options, &large, false, &Job::quiet()).unwrap();
        let options = ExtendOptions {
            tokenizer: Some(large),
            tokens: vec!["量子力学".to_owned()],
            model: Some(small),
            output: folder.path().join("out"),
            force: false,
        };
        let error = extend(&options, &Job::quiet()).unwrap_err();
        assert_eq!(error.code(), Code::ModelInvalid);
        assert!(!options.output.exists());
    }
}
