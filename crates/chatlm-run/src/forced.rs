//! Teacher forcing through the engine that answers: what another precision does to given responses.

use std::path::Path;
use std::sync::Arc;

use chatlm_checkpoint::load_weights;
use chatlm_dataset::Loader;
use chatlm_job::{Code, Error, Job, Result};
use chatlm_t5::{Session, StoredKind, Weights};

use crate::evaluate::PerplexityReport;
use crate::worker::compute;

/// The precision that a flag names; `None` for that of the folder.
pub(crate) fn precision(name: Option<&str>) -> Result<Option<StoredKind>> {
    match name {
        None | Some("auto") => Ok(None),
        Some("f32") => Ok(Some(StoredKind::F32)),
        Some("f16") => Ok(Some(StoredKind::F16)),
        Some("bf16") => Ok(Some(StoredKind::Bf16)),
        Some("int8") => Ok(Some(StoredKind::Int8)),
        Some(other) => Err(Error::new(
            Code::Usage,
            format!("{other} is not a precision"),
            "use one of f32, bf16, f16, int8",
        )
        .with("field", "dtype")),
    }
}

/// What is measured: a model folder in one precision, and in another beside it.
pub(crate) struct Forced {
    weights: Vec<Arc<Weights>>,
}

impl Forced {
    pub(crate) fn load(model: &Path, dtype: Option<&str>, compare: Option<&str>) -> Result<Self> {
        let mut weights = vec![load_weights(model, precision(dtype)?)?.weights];
        if let Some(compare) = compare {
            weights.push(load_weights(model, precision(Some(compare))?)?.weights);
        }
        Ok(Self { weights })
    }

    /// Loss over all rows of an unshuffled loader, and how often both precisions' likeliest tokens are
    /// the same.
    pub(crate) fn measure(&self, rows: &mut Loader, job: &Job) -> Result<PerplexityReport> {
        let (total, mut seen) = (rows.rows(), 0);
        let (mut sum, mut tokens, mut same) = (0.0, 0u64, 0u64);
        while seen < total {
            job.cancel.check()?;
            let batch = rows.next_batch()?;
            let keep = batch.keys.len().min((total - seen) as usize);
            let (sources, targets) = (&batch.fields[0][..keep], &batch.fields[1][..keep]);
            let found = self
                .weights
                .iter()
                .map(|weights| compute(|| pass(weights, sources, targets)))
                .collect::<Result<Vec<_>>>()?;
            sum += found[0].loss;
            tokens += found[0].best.len() as u64;
            if let Some(other) = found.get(1) {
                let pairs = found[0].best.iter().zip(&other.best);
                same += pairs.filter(|(a, b)| a == b).count() as u64;
            }
            seen += keep as u64;
            job.progress.report("evaluate", seen, Some(total), "rows");
        }
        let loss = sum / tokens.max(1) as f64;
        Ok(PerplexityReport {
            perplexity: loss.exp(),
            loss,
            tokens,
            agreement: (self.weights.len() > 1).then(|| same as f64 / tokens.max(1) as f64),
        })
    }
}

struct Found {
    /// The sum over all target tokens, in nats.
    loss: f64,
    /// The likeliest token at each place of each target.
    best: Vec<u32>,
}

fn pass(weights: &Arc<Weights>, sources: &[Vec<u32>], targets: &[Vec<u32>]) -> Result<Found> {
    let mut session = Session::new(weights.clone());
    let prompts: Vec<&[u32]> = sources.iter().map(Vec::as_slice).collect();
    session.add(&prompts)?;
    let vocabulary = weights.config().vocab_size;
    let mut rows: Vec<&Vec<u32>> = targets.iter().collect();
    let (mut logits, mut found) = (
        Vec::new(),
        Found {
            loss: 0.0,
            best: Vec::new(),
        },
    );
    for place in 0.. {
        let keep: Vec<usize> = (0..rows.len())
            .filter(|&row| place < rows[row].len())
            .collect();
        if keep.is_empty() {
            break;
        }
        if keep.len() < rows.len() {
            session.select(&keep)?;
            rows = keep.iter().map(|&row| rows[row]).collect();
        }
        let last = |row: &&Vec<u32>| match place {
            0 => weights.config().decoder_start_token_id,
            _ => row[place - 1],
        };
        let tokens: Vec<u32> = rows.iter().map(last).collect();
        session.step(&tokens, &mut logits)?;
        for (row, logits) in rows.iter().zip(logits.chunks(vocabulary)) {
            let (best, largest) =
                logits
                    .iter()
                    .enumerate()
                    .fold((0, f32::NEG_INFINITY), |best, (place, &logit)| {
                        if logit > best.1 { (place, logit) } else { best }
                    });
            let exponents = logits.iter().map(|&logit| f64::from(logit - largest).exp());
            let norm = f64::from(largest) + exponents.sum::<f64>().ln();
            found.loss += norm - f64::from(logits[row[place] as usize]);
            found.best.push(best as u32);
        }
    }
    Ok(found)
}
