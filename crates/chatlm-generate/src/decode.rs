//! The decoding loop: one batch, a cache, rows that leave when they are done.

use candle_core::Tensor;
use chatlm_job::{Cancel, Code, Error, Random, Result};
use chatlm_t5::{Cache, Model, Pass, Precision, Sequences, Tape};

use crate::Settings;
use crate::filter::{choose, filter};

/// One prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The encoder's ids, `[EOS]` included.
    pub ids: Vec<u32>,
    /// The sampling stream: the same key gives the same answer beside any neighbours.
    pub key: u64,
}

/// A row that still writes.
struct Row {
    /// Its place among the requests.
    place: usize,
    /// The decoder's input so far, start token included.
    history: Vec<u32>,
    random: Random,
}

/// Answers all requests as one batch. `on_token` is told each token as it is chosen, with its
/// request's place. Answers hold no `[PAD]`, and end in `[EOS]` where it was reached.
pub fn generate(
    model: &Model,
    requests: &[Request],
    settings: &Settings,
    adapter: bool,
    cancel: &Cancel,
    on_token: &mut dyn FnMut(usize, u32),
) -> Result<Vec<Vec<u32>>> {
    let config = model.config();
    let mut answers: Vec<Vec<u32>> = vec![Vec::new(); requests.len()];
    if requests.is_empty() || settings.max_new_tokens == 0 {
        return Ok(answers);
    }
    check(requests, config.vocab_size)?;
    cancel.check()?;
    let pass = Pass {
        adapter,
        ..Pass::inference()
    };
    let prompts: Vec<&[u32]> = requests.iter().map(|r| r.ids.as_slice()).collect();
    let source = Sequences::new(&prompts, model.device())?;
    let encoded = model.encode(&Tape::off(Precision::F32), &source, &pass)?;
    let mut cache = model.start(&encoded, &source.rows, &pass)?;
    let start = config.decoder_start_token_id;
    let mut rows: Vec<Row> = requests
        .iter()
        .enumerate()
        .map(|(place, request)| Row {
            place,
            history: vec![start],
            random: Random::new(request.key),
        })
        .collect();

    for _ in 0..settings.max_new_tokens {
        cancel.check()?;
        let mut logits = next_logits(model, &rows, &mut cache, &pass)?;
        let mut left = Vec::new();
        for (line, row) in rows.iter_mut().enumerate() {
            let logits = &mut logits[line * config.vocab_size..][..config.vocab_size];
            if !logits.iter().all(|logit| logit.is_finite()) {
                return Err(not_finite(row));
            }
            filter(logits, &row.history, settings);
            // Where the filters forbid every token, there is nothing more to say.
            let id =
                choose(logits, settings.search, &mut row.random).unwrap_or(config.eos_token_id);
            row.history.push(id);
            if id != config.pad_token_id {
                answers[row.place].push(id);
                on_token(row.place, id);
            }
            if id != config.eos_token_id {
                left.push(line as u32);
            }
        }
        if left.is_empty() {
            break;
        }
        if left.len() < rows.len() {
            let keep = Tensor::new(left.as_slice(), model.device()).map_err(Error::internal)?;
            cache.select(&keep)?;
            rows.retain(|row| row.history.last() != Some(&config.eos_token_id));
        }
    }
    Ok(answers)
}

fn check(requests: &[Request], vocabulary: usize) -> Result<()> {
    for (place, request) in requests.iter().enumerate() {
        let wrong = match request.ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(id) => format!("token {id} of prompt {place} is outside the model's vocabulary"),
            None if request.ids.is_empty() => {
                format!("prompt {place} has no token, not even [EOS]")
            }
            None => continue,
        };
        return Err(Error::new(
            Code::InputRow,
            wrong,
            "use the tokenizer that lies in the model's folder",
        )
        .with("row", place));
    }
    Ok(())
}

/// The logits after each row's last token, row after row.
fn next_logits(model: &Model, rows: &[Row], cache: &mut Cache, pass: &Pass) -> Result<Vec<f32>> {
    let last: Vec<u32> = rows
        .iter()
        .filter_map(|row| row.history.last().copied())
        .collect();
    let ids = Tensor::from_vec(last, (rows.len(), 1), model.device()).map_err(Error::internal)?;
    model
        .step(&ids, cache, pass)?
        .flatten_all()
        .and_then(|logits| logits.to_vec1())
        .map_err(Error::internal)
}

fn not_finite(row: &Row) -> Error {
    Error::new(
        Code::NotFinite,
        format!(
            "the model's scores are not finite at token {} of answer {}",
            row.history.len(),
            row.place
        ),
        "the weights are damaged or their training diverged: take an earlier checkpoint",
    )
    .with("row", row.place)
}
