//! Evaluation inside a run: loss over the validation rows, and a few answers to look at.

use chatlm_dataset::{Cursor, InputOptions, Loader, Rows};
use chatlm_job::{Error, Job, Result};
use chatlm_t5::Model;
use chatlm_train::{Objective, PreferenceSums, TrainConfig};

use crate::batches::preference_batch;
use crate::evaluate::mean_loss;
use crate::event::Rewards;
use crate::reference::ReferenceScores;
use crate::setup::RunKind;
use crate::worker::compute;

/// What an evaluation found.
pub(crate) struct Measured {
    pub(crate) loss: f64,
    pub(crate) rewards: Option<Rewards>,
}

/// Mean cross-entropy a target token over the first `evalRows` rows.
pub(crate) fn measure(
    model: &Model,
    valid: &mut Loader,
    config: &TrainConfig,
    job: &Job,
) -> Result<Measured> {
    let report = mean_loss(
        model,
        valid,
        config.eval_rows,
        &job.cancel,
        &mut |done, total| {
            job.progress.report("evaluate", done, Some(total), "rows");
        },
    )?;
    Ok(Measured {
        loss: report.loss,
        rewards: None,
    })
}

/// Mean preference loss a pair, and the rewards, over the first `evalRows` rows.
pub(crate) fn measure_preferences(
    model: &Model,
    valid: &mut Loader,
    config: &TrainConfig,
    reference: Option<&ReferenceScores>,
    job: &Job,
) -> Result<Measured> {
    valid.seek(Cursor { epoch: 0, row: 0 });
    let total = valid.rows().min(config.eval_rows);
    let pad = model.config().pad_token_id;
    let mut sums = PreferenceSums::new(Objective::of(config));
    let mut seen = 0;
    while seen < total {
        job.cancel.check()?;
        let batch = valid.next_batch()?;
        let keep = batch.keys.len().min((total - seen) as usize);
        let batch = preference_batch(&batch, keep, pad, reference, model.device())?;
        compute(|| sums.add_batch(model, &batch))?;
        seen += keep as u64;
        job.progress.report("evaluate", seen, Some(total), "rows");
    }
    let means = sums.means();
    Ok(Measured {
        loss: means.loss,
        rewards: Some(Rewards::new(config.loss, &means)),
    })
}

/// The first rows of the validation set: prompts and true answers.
pub(crate) fn sample_rows(
    kind: RunKind,
    config: &TrainConfig,
    count: usize,
) -> Result<Vec<(String, String)>> {
    let Some(path) = &config.valid else {
        return Ok(Vec::new());
    };
    let answer = if kind == RunKind::Dpo {
        "chosen"
    } else {
        "response"
    };
    let options = InputOptions {
        encoding: None,
        keep_going: false,
    };
    Rows::open(std::slice::from_ref(path), &options)?
        .take(count)
        .map(|row| {
            let row = row?;
            Ok::<_, Error>((row.text("prompt")?.to_owned(), row.text(answer)?.to_owned()))
        })
        .collect()
}
