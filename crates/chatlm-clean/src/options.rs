//! What can be asked of a cleaning and what it answers.

use std::path::PathBuf;
use std::str::FromStr;

use chatlm_dataset::InputOptions;
use chatlm_job::{Code, Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::source::Source;

/// What the rows are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    Pretrain,
    Sft,
    Dpo,
}

impl Purpose {
    pub const ALL: [Self; 3] = [Self::Pretrain, Self::Sft, Self::Dpo];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Sft => "sft",
            Self::Dpo => "dpo",
        }
    }
}

impl FromStr for Purpose {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL
            .into_iter()
            .find(|purpose| purpose.as_str() == text);
        found.ok_or_else(|| {
            Error::new(
                Code::Usage,
                format!("rows cannot be made for {text:?}"),
                "give --for one of pretrain, sft, dpo",
            )
        })
    }
}

/// What becomes of a conversation, since a row holds one question and one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turns {
    /// Its first exchange: what follows often makes no sense without it.
    First,
    /// Each exchange is a row of its own.
    Each,
}

impl FromStr for Turns {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "first" => Ok(Self::First),
            "each" => Ok(Self::Each),
            _ => Err(Error::new(
                Code::Usage,
                format!("a conversation cannot be taken apart as {text:?}"),
                "give --turns first or --turns each",
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
    /// Where the report goes, as JSON; its shape is in docs/reports.md.
    pub report: Option<PathBuf>,
    /// Repeats the reference program bug for bug.
    pub compat: bool,
    pub turns: Turns,
    pub prompt_column: Option<String>,
    pub response_column: Option<String>,
    pub chosen_column: Option<String>,
    pub rejected_column: Option<String>,
    /// Question templates of `zhwiki`, one a line with `{title}`; our own where `None`.
    pub templates: Option<PathBuf>,
    /// Detected where `None`.
    pub encoding: Option<String>,
    /// Draws the report's samples and the questions of `zhwiki`.
    pub seed: u64,
    pub keep_going: bool,
    pub force: bool,
}

impl CleanOptions {
    /// Everything else as it is where nothing is asked for.
    pub fn new(source: Source, purpose: Purpose, inputs: Vec<String>, output: PathBuf) -> Self {
        Self {
            source,
            purpose,
            inputs,
            output,
            rejects: None,
            report: None,
            compat: false,
            turns: Turns::First,
            prompt_column: None,
            response_column: None,
            chosen_column: None,
            rejected_column: None,
            templates: None,
            encoding: None,
            seed: 0,
            keep_going: false,
            force: false,
        }
    }

    pub(crate) fn input(&self) -> InputOptions {
        InputOptions {
            encoding: self.encoding.clone(),
            keep_going: self.keep_going,
        }
    }

    /// Refuses what does not go together.
    pub(crate) fn check(&self) -> Result<()> {
        self.source.check(self.purpose, self.compat)?;
        let usage = |message: String, help: String| Err(Error::new(Code::Usage, message, help));
        let kind = self.source.kind();
        let (named, dpo) = (kind.columns, self.purpose == Purpose::Dpo);
        let meant = [
            ("--prompt-column", self.prompt_column.is_some(), named),
            (
                "--response-column",
                self.response_column.is_some(),
                named && !dpo,
            ),
            (
                "--chosen-column",
                self.chosen_column.is_some(),
                named && dpo,
            ),
            (
                "--rejected-column",
                self.rejected_column.is_some(),
                named && dpo,
            ),
            (
                "--turns each",
                self.turns == Turns::Each,
                kind.turns && !self.compat,
            ),
            (
                "--templates",
                self.templates.is_some(),
                kind.name == "zhwiki",
            ),
        ];
        for (name, given, meant) in meant {
            if given && !meant {
                return usage(
                    format!("{name} means nothing here"),
                    format!(
                        "leave it out: {} for this purpose does not read it",
                        kind.name
                    ),
                );
            }
        }
        let outputs = [
            Some(&self.output),
            self.rejects.as_ref(),
            self.report.as_ref(),
        ];
        let outputs: Vec<&PathBuf> = outputs.into_iter().flatten().collect();
        for (place, path) in outputs.iter().enumerate() {
            if outputs[..place].contains(path) {
                return usage(
                    format!("{} cannot hold two results", path.display()),
                    "give --out, --rejects and --report names of their own".to_owned(),
                );
            }
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
    /// Byte sequences that were no text in the file's encoding.
    pub undecodable: u64,
    pub seconds: f64,
}
