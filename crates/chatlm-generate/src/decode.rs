//! From prompts to answers in one call.

use chatlm_job::{Cancel, Result};

use crate::Settings;
use crate::batch::{Batch, Request};
use crate::decoder::Decoder;
use crate::writer::{Answer, Observer};

/// Answers all requests as one batch, in their order; each has as many answers as the settings ask
/// for, best first where they have scores. (Fewer where beams found no more.) The decoder has no rows
/// before and after.
pub fn generate(
    decoder: &mut dyn Decoder,
    requests: &[Request],
    settings: &Settings,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<Vec<Vec<Answer>>> {
    let mut answers = vec![Vec::new(); requests.len()];
    if settings.max_new_tokens == 0 {
        return Ok(answers);
    }
    cancel.check()?;
    let mut batch = Batch::default();
    batch.add(decoder, requests, settings)?;
    let mut run = || -> Result<()> {
        while !batch.is_empty() {
            cancel.check()?;
            for (place, found) in batch.step(decoder, observer)? {
                answers[place] = found?;
            }
        }
        Ok(())
    };
    if let Err(error) = run() {
        // The error that led here matters more than one on the way out.
        let _ = decoder.select(&[]);
        return Err(error);
    }
    Ok(answers)
}
