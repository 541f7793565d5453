//! One source of decoding settings: a caller's words, a preset, a `generation_config.json`.

use chatlm_generate::Search;
use chatlm_job::{Code, Error, Result};
use serde::Deserialize;
use serde_json::Value;

/// Settings as one source has them: what is left out comes from the next.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GivenSettings {
    /// `chatlm-beam` or `chatlm-sample`, the reference program's.
    pub preset: Option<String>,
    /// `greedy`, `beam`, `beam-sample`, `sample` or `contrastive`. Left out, it follows from `beams`
    /// and `penalty_alpha` where those are given.
    pub search: Option<String>,
    pub max_new_tokens: Option<usize>,
    pub min_new_tokens: Option<usize>,
    pub temperature: Option<f64>,
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub no_repeat_ngram: Option<usize>,
    pub beams: Option<usize>,
    pub length_penalty: Option<f64>,
    /// `true`, `false` or `never`.
    pub early_stopping: Option<String>,
    /// Answers a prompt.
    pub answers: Option<usize>,
    pub penalty_alpha: Option<f64>,
    /// Texts before which an answer ends.
    pub stop: Option<Vec<String>>,
    pub seed: Option<u64>,
}

/// More beams than this is a slip of the hand.
const MOST_BEAMS: usize = 512;

/// The reference program's ways to search (`my_generate`). They start from transformers' neutral
/// values, so whatever shapes an answer is theirs, and only its length is left to the folder.
pub(crate) fn preset(name: &str) -> Result<GivenSettings> {
    let neutral = GivenSettings {
        temperature: Some(1.0),
        repetition_penalty: Some(1.0),
        no_repeat_ngram: Some(4),
        top_k: Some(50),
        answers: Some(1),
        ..GivenSettings::default()
    };
    match name {
        "chatlm-beam" => Ok(GivenSettings {
            search: Some("beam-sample".to_owned()),
            beams: Some(5),
            top_p: Some(0.95),
            length_penalty: Some(-2.0),
            early_stopping: Some("true".to_owned()),
            ..neutral
        }),
        "chatlm-sample" => Ok(GivenSettings {
            search: Some("sample".to_owned()),
            temperature: Some(0.98),
            top_p: Some(0.8),
            ..neutral
        }),
        other => Err(Error::new(
            Code::Usage,
            format!("--preset {other} is no preset"),
            "use chatlm-beam or chatlm-sample",
        )),
    }
}

/// What a `generation_config.json` says in our terms; fields of no use here are passed over.
pub(crate) fn from_folder(folder: &Value) -> GivenSettings {
    let number = |name: &str| folder.get(name).and_then(Value::as_f64);
    let count = |name: &str| folder.get(name).and_then(Value::as_u64).map(|n| n as usize);
    let flag = |name: &str| folder.get(name).and_then(Value::as_bool).unwrap_or(false);
    let beams = count("num_beams");
    let search = match (beams.unwrap_or(1) > 1, flag("do_sample")) {
        (true, true) => "beam-sample",
        (true, false) => "beam",
        (false, true) => "sample",
        (false, false)
            if number("penalty_alpha").is_some_and(|alpha| alpha > 0.0)
                && count("top_k").is_some_and(|k| k > 1) =>
        {
            "contrastive"
        }
        (false, false) => "greedy",
    };
    let early_stopping = match folder.get("early_stopping") {
        Some(Value::Bool(flag)) => Some(flag.to_string()),
        Some(Value::String(word)) => Some(word.clone()),
        _ => None,
    };
    let stop = match folder.get("stop_strings") {
        Some(Value::String(text)) => Some(vec![text.clone()]),
        Some(Value::Array(texts)) => {
            let texts = texts.iter().filter_map(Value::as_str);
            Some(texts.map(str::to_owned).collect())
        }
        _ => None,
    };
    // The older limits count the start token.
    let without_start = |name: &str| count(name).map(|n| n.saturating_sub(1));
    GivenSettings {
        preset: None,
        search: Some(search.to_owned()),
        max_new_tokens: count("max_new_tokens").or_else(|| without_start("max_length")),
        min_new_tokens: count("min_new_tokens").or_else(|| without_start("min_length")),
        temperature: number("temperature"),
        top_k: count("top_k"),
        top_p: number("top_p"),
        repetition_penalty: number("repetition_penalty"),
        no_repeat_ngram: count("no_repeat_ngram_size"),
        beams: beams.filter(|&beams| beams > 1),
        length_penalty: number("length_penalty"),
        early_stopping,
        answers: count("num_return_sequences"),
        penalty_alpha: number("penalty_alpha"),
        stop,
        seed: None,
    }
}

impl GivenSettings {
    /// The search that this source means, over that of the sources behind it.
    pub(crate) fn search_over(&self, behind: Search) -> Result<Search> {
        if let Some(name) = &self.search {
            return serde_json::from_value(Value::String(name.clone())).map_err(|_| {
                Error::new(
                    Code::Usage,
                    format!("--search {name} is no way to search"),
                    "use greedy, beam, beam-sample, sample or contrastive",
                )
            });
        }
        Ok(match (self.beams, behind.draws()) {
            (Some(1), true) => Search::Sample,
            (Some(1), false) if behind == Search::Beam => Search::Greedy,
            (Some(2..), true) => Search::BeamSample,
            (Some(2..), false) => Search::Beam,
            _ if self.penalty_alpha.is_some() => Search::Contrastive,
            _ => behind,
        })
    }

    /// What is given here, and the rest from `behind`.
    pub(crate) fn over(self, behind: Self) -> Self {
        Self {
            preset: None,
            search: self.search.or(behind.search),
            max_new_tokens: self.max_new_tokens.or(behind.max_new_tokens),
            min_new_tokens: self.min_new_tokens.or(behind.min_new_tokens),
            temperature: self.temperature.or(behind.temperature),
            top_k: self.top_k.or(behind.top_k),
            top_p: self.top_p.or(behind.top_p),
            repetition_penalty: self.repetition_penalty.or(behind.repetition_penalty),
            no_repeat_ngram: self.no_repeat_ngram.or(behind.no_repeat_ngram),
            beams: self.beams.or(behind.beams),
            length_penalty: self.length_penalty.or(behind.length_penalty),
            early_stopping: self.early_stopping.or(behind.early_stopping),
            answers: self.answers.or(behind.answers),
            penalty_alpha: self.penalty_alpha.or(behind.penalty_alpha),
            stop: self.stop.or(behind.stop),
            seed: self.seed.or(behind.seed),
        }
    }

    /// Leaves out what takes no part in `search`: a folder may hold more than is used.
    pub(crate) fn only_for(self, search: Search) -> Self {
        let drawn = |value| if search.draws() { value } else { None };
        let several = search.draws() || search == Search::Beam;
        Self {
            temperature: drawn(self.temperature),
            top_p: drawn(self.top_p),
            top_k: self
                .top_k
                .filter(|&k| search.draws() || (search == Search::Contrastive && k > 1)),
            beams: self.beams.filter(|_| search.has_beams()),
            length_penalty: self.length_penalty.filter(|_| search.has_beams()),
            early_stopping: self.early_stopping.filter(|_| search.has_beams()),
            penalty_alpha: self.penalty_alpha.filter(|_| search == Search::Contrastive),
            answers: self.answers.filter(|_| several),
            ..self
        }
    }

    /// The first value that is out of its range: what is wrong and what to do.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, &'static str)> {
        let positive = |value: Option<f64>| value.is_none_or(|v| v > 0.0 && v.is_finite());
        let checks = [
            (
                self.max_new_tokens != Some(0),
                "--max-new-tokens must be at least 1",
                "320 is the default",
            ),
            (
                positive(self.temperature),
                "--temperature must be above 0",
                "1 leaves the distribution as it is; for the most likely token use --search greedy",
            ),
            (
                self.top_p.is_none_or(|p| p > 0.0 && p <= 1.0),
                "--top-p must be above 0 and at most 1",
                "1 switches it off",
            ),
            (
                positive(self.repetition_penalty),
                "--repetition-penalty must be above 0",
                "1 switches it off",
            ),
            (
                self.beams
                    .is_none_or(|beams| (1..=MOST_BEAMS).contains(&beams)),
                "--beams must be at least 1 and at most 512",
                "5 is the default of --search beam",
            ),
            (
                self.length_penalty.is_none_or(f64::is_finite),
                "--length-penalty must be a number",
                "above 0 favours long answers, below 0 short ones; 1 is the default",
            ),
            (
                self.early_stopping
                    .as_ref()
                    .is_none_or(|word| matches!(word.as_str(), "true" | "false" | "never")),
                "--early-stopping must be true, false or never",
                "false is the default",
            ),
            (
                self.penalty_alpha.is_none_or(|a| (0.0..=1.0).contains(&a)),
                "--penalty-alpha must be at least 0 and at most 1",
                "0.6 is the default of --search contrastive",
            ),
            (
                self.answers.is_none_or(|n| (1..=MOST_BEAMS).contains(&n)),
                "--n-best must be at least 1 and at most 512",
                "1 is the default",
            ),
            (
                self.stop.iter().flatten().all(|text| !text.is_empty()),
                "--stop must not be empty",
                "give the text before which an answer ends",
            ),
        ];
        let wrong = checks.into_iter().find(|(right, ..)| !right)?;
        Some((wrong.1, wrong.2))
    }
}
