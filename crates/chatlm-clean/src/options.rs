//! What can be asked of a cleaning and what it answers.

use std::path::PathBuf;
use std::str::FromStr;

use chatlm_dataset::InputOptions;
use chatlm_job::{Code, Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};

/// A raw source this crate knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Alpaca,
    Belle,
    /// Any rows with two named columns (three for `dpo`).
    Pairs,
    /// Rows with named columns for prompt, chosen, rejected; for `dpo` alone.
    RlhfPairs,
    MedicalDialogue,
}

impl Source {
    const NAMES: [(&'static str, Self); 5] = [
        ("alpaca", Self::Alpaca),
        ("belle", Self::Belle),
        ("pairs", Self::Pairs),
        ("rlhf-pairs", Self::RlhfPairs),
        ("medical-dialogue", Self::MedicalDialogue),
    ];
    /// Sources of the contract that are not built yet.
    const LATER: [&'static str; 6] = [
        "webtext2019zh",
        "baike-qa2019",
        "zhihu-kol",
        "zhwiki",
        "finance-qa",
        "sharegpt",
    ];

    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, source)| *source == self)
            .map_or("", |(name, _)| name)
    }
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some((_, source)) = Self::NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*source);
        }
        let message = if Self::LATER.contains(&text) {
            format!("the source {text:?} comes later")
        } else {
            format!("there is no source {text:?}")
        };
        let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
        Err(Error::new(
            Code::Usage,
            message,
            format!("give --source one of {}", names.join(", ")),
        ))
    }
}

/// What the rows are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Pretrain,
    Sft,
    Dpo,
}

impl FromStr for Purpose {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "pretrain" => Ok(Self::Pretrain),
            "sft" => Ok(Self::Sft),
            "dpo" => Ok(Self::Dpo),
            _ => Err(Error::new(
                Code::Usage,
                format!("rows cannot be made for {text:?}"),
                "give --for one of pretrain, sft, dpo",
            )),
        }
    }
}

/// What to clean and how.
#[derive(Debug, Clone)]
pub struct CleanOptions {
    pub source: Source,
    pub purpose: Purpose,
    pub inputs: Vec<String>,
    pub output: PathBuf,
    /// Where dropped rows go: their columns, `rule`, `file`, `row`.
    pub rejects: Option<PathBuf>,
    /// Repeats the reference program bug for bug.
    pub compat: bool,
    pub prompt_column: Option<String>,
    pub response_column: Option<String>,
    pub chosen_column: Option<String>,
    pub rejected_column: Option<String>,
    /// Detected where `None`.
    pub encoding: Option<String>,
    pub keep_going: bool,
    pub force: bool,
}

impl CleanOptions {
    pub(crate) fn input(&self) -> InputOptions {
        InputOptions {
            encoding: self.encoding.clone(),
            keep_going: self.keep_going,
        }
    }

    /// Refuses what does not go together.
    pub(crate) fn check(&self) -> Result<()> {
        let usage = |message: String, help: String| Err(Error::new(Code::Usage, message, help));
        let source = self.source.as_str();
        let (pairs, dpo) = match self.source {
            Source::Alpaca => (false, true),
            Source::Pairs | Source::RlhfPairs => (true, true),
            Source::Belle | Source::MedicalDialogue => (false, false),
        };
        if self.purpose == Purpose::Dpo && !dpo {
            return usage(
                format!("{source} holds no preference pairs"),
                "clean it for sft, then let chatlm reject make the rejected answers".to_owned(),
            );
        }
        if self.source == Source::RlhfPairs && self.purpose != Purpose::Dpo {
            return usage(
                "rlhf-pairs gives prompt, chosen and rejected".to_owned(),
                "add --for dpo, or clean the file as pairs with --response-column".to_owned(),
            );
        }
        if self.compat && !matches!(self.source, Source::Belle | Source::MedicalDialogue) {
            return usage(
                format!("the reference program's way with {source} is not built"),
                "leave out --compat, or use it with belle or medical-dialogue".to_owned(),
            );
        }
        let columns = [
            ("--prompt-column", &self.prompt_column, pairs),
            (
                "--response-column",
                &self.response_column,
                pairs && self.purpose != Purpose::Dpo,
            ),
            (
                "--chosen-column",
                &self.chosen_column,
                pairs && self.purpose == Purpose::Dpo,
            ),
            (
                "--rejected-column",
                &self.rejected_column,
                pairs && self.purpose == Purpose::Dpo,
            ),
        ];
        for (name, column, meant) in columns {
            if column.is_some() && !meant {
                return usage(
                    format!("{name} means nothing here"),
                    format!("leave it out: {source} for this purpose does not read it"),
                );
            }
        }
        if self.rejects.as_ref() == Some(&self.output) {
            return usage(
                format!(
                    "{} cannot hold both kept and dropped rows",
                    self.output.display()
                ),
                "give --rejects another name than --out".to_owned(),
            );
        }
        Ok(())
    }
}

/// The funnel: `read` = `kept` + all of `dropped` + `broken`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CleanReport {
    pub read: u64,
    pub kept: u64,
    /// How many rows each rule dropped, in the order of the rules, with those that dropped none.
    pub dropped: Map<String, Value>,
    /// Rows that could not be read (`keep_going`).
    pub broken: u64,
    pub seconds: f64,
}
