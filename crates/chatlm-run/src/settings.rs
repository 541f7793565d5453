//! Decoding settings from their four sources: what the caller gives beats the preset, which beats the
//! model folder's `generation_config.json`, which beats the defaults of [`Settings`].

use chatlm_generate::{EarlyStopping, Search, Settings};
use chatlm_job::{Code, Error, Result};
use serde_json::Value;

use crate::given::{GivenSettings, from_folder, preset};

/// Settings of ids, and the texts that end an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerSettings {
    pub decoding: Settings,
    /// Texts before which an answer ends.
    pub stop: Vec<String>,
}

impl From<Settings> for AnswerSettings {
    fn from(decoding: Settings) -> Self {
        Self {
            decoding,
            stop: Vec::new(),
        }
    }
}

/// Whether the answers asked for can be had from the search.
fn check_answers(given: &GivenSettings, settings: &mut Settings) -> Result<()> {
    let search = settings.search;
    if search.has_beams() && settings.answers > settings.beams {
        if given.answers.is_some() {
            return Err(Error::new(
                Code::Usage,
                format!(
                    "--n-best {} is more than the {} beams there are",
                    settings.answers, settings.beams
                ),
                "give as many --beams as answers, or more",
            ));
        }
        settings.answers = settings.beams;
    }
    if !search.has_beams() && !search.draws() && settings.answers > 1 {
        return Err(Error::new(
            Code::Usage,
            format!(
                "--n-best {} needs a search that finds several answers",
                settings.answers
            ),
            "use --search beam, beam-sample or sample",
        ));
    }
    if search == Search::Contrastive && settings.top_k < 2 {
        return Err(Error::new(
            Code::Usage,
            "--search contrastive needs a --top-k of at least 2",
            "4 is the default there",
        ));
    }
    Ok(())
}

/// Resolves the sources and checks the ranges. A wrong value that was given is wrong usage, one of
/// the folder makes its model invalid.
pub(crate) fn resolve(given: &GivenSettings, folder: &Value) -> Result<AnswerSettings> {
    if let Some((message, help)) = given.out_of_range() {
        return Err(Error::new(Code::Usage, message, help));
    }
    let file = from_folder(folder);
    let preset = match &given.preset {
        Some(name) => preset(name)?,
        None => GivenSettings::default(),
    };
    let search = file.search_over(Search::Greedy)?;
    let search = given.search_over(preset.search_over(search)?)?;
    let file = file.only_for(search);
    if let Some((message, _)) = file.out_of_range() {
        return Err(Error::new(
            Code::ModelInvalid,
            format!(
                "generation_config.json: what stands for {}",
                message.trim_start_matches("--")
            ),
            "mend the file, or give the value as a flag",
        )
        .with("file", "generation_config.json"));
    }
    let all = given.clone().over(preset.only_for(search)).over(file);
    let defaults = Settings::default();
    let list = |name: &str| ids(folder.get(name));
    let one = |name: &str| list(name).first().copied();
    let mut decoding = Settings {
        search,
        max_new_tokens: all.max_new_tokens.unwrap_or(defaults.max_new_tokens),
        min_new_tokens: all.min_new_tokens.unwrap_or(defaults.min_new_tokens),
        temperature: all.temperature.unwrap_or(defaults.temperature),
        top_k: all.top_k.unwrap_or(match search {
            Search::Contrastive => 4,
            _ => defaults.top_k,
        }),
        top_p: all.top_p.unwrap_or(defaults.top_p),
        repetition_penalty: all
            .repetition_penalty
            .unwrap_or(defaults.repetition_penalty),
        no_repeat_ngram: all.no_repeat_ngram.unwrap_or(defaults.no_repeat_ngram),
        beams: all.beams.unwrap_or(defaults.beams),
        length_penalty: all.length_penalty.unwrap_or(defaults.length_penalty),
        early_stopping: match all.early_stopping.as_deref() {
            Some("true") => EarlyStopping::Yes,
            Some("never") => EarlyStopping::Never,
            _ => EarlyStopping::No,
        },
        answers: all.answers.unwrap_or(defaults.answers),
        penalty_alpha: all.penalty_alpha.unwrap_or(defaults.penalty_alpha),
        end_tokens: list("eos_token_id"),
        bad_words: match folder.get("bad_words_ids") {
            Some(Value::Array(words)) => words.iter().map(|word| ids(Some(word))).collect(),
            _ => Vec::new(),
        },
        suppress: list("suppress_tokens"),
        suppress_first: list("begin_suppress_tokens"),
        forced_first: one("forced_bos_token_id"),
        forced_last: one("forced_eos_token_id"),
        seed: all.seed.unwrap_or(defaults.seed),
    };
    check_answers(given, &mut decoding)?;
    Ok(AnswerSettings {
        decoding,
        stop: all.stop.unwrap_or_default(),
    })
}

/// One id or a list of them.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
#[path = "settings_tests.rs"]
mod tests;
