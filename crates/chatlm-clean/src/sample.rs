//! The row being made, and the steps that look at it and change it.

use std::borrow::Cow;

use chatlm_dataset::Row;

/// A prompt and its answers: `response`, or `chosen` and `rejected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub prompt: String,
    pub answers: Vec<String>,
}

impl Sample {
    pub fn new(prompt: impl Into<String>, answers: impl IntoIterator<Item = String>) -> Self {
        Self {
            prompt: prompt.into(),
            answers: answers.into_iter().collect(),
        }
    }

    /// The prompt, then the answers.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.prompt.as_str()).chain(self.answers.iter().map(String::as_str))
    }

    /// Rewrites every text; true where one changed.
    pub fn rewrite(&mut self, rewrite: fn(&str) -> Cow<'_, str>) -> bool {
        let mut changed = false;
        for text in std::iter::once(&mut self.prompt).chain(&mut self.answers) {
            let Cow::Owned(new) = rewrite(text) else {
                continue;
            };
            changed |= new != *text;
            *text = new;
        }
        changed
    }
}

/// What a rule did to a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Passed,
    Changed,
    Dropped,
}

enum Act {
    /// Borrowed where nothing is to be changed.
    Rewrite(fn(&str) -> Cow<'_, str>),
    Drop(Box<dyn Fn(&Sample) -> bool + Send + Sync>),
    DropRow(Box<dyn Fn(&Row) -> bool + Send + Sync>),
}

/// One named step of a source: it rewrites the sample, or drops the row.
pub struct Rule {
    pub name: &'static str,
    act: Act,
}

impl Rule {
    /// A rule that rewrites every text.
    pub fn rewrite(name: &'static str, rewrite: fn(&str) -> Cow<'_, str>) -> Self {
        Self {
            name,
            act: Act::Rewrite(rewrite),
        }
    }

    /// A rule that drops the samples for which `falls` holds.
    pub fn drop(
        name: &'static str,
        falls: impl Fn(&Sample) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            act: Act::Drop(Box::new(falls)),
        }
    }

    /// A rule that drops by the raw row.
    pub fn drop_row(
        name: &'static str,
        falls: impl Fn(&Row) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            act: Act::DropRow(Box::new(falls)),
        }
    }

    /// Whether the rule can drop rows, and so is a line of the funnel.
    pub fn drops(&self) -> bool {
        !matches!(self.act, Act::Rewrite(_))
    }

    /// Applies the rule.
    pub fn apply(&self, row: &Row, sample: &mut Sample) -> Step {
        match &self.act {
            Act::Rewrite(rewrite) if sample.rewrite(*rewrite) => Step::Changed,
            Act::Drop(falls) if falls(sample) => Step::Dropped,
            Act::DropRow(falls) if falls(row) => Step::Dropped,
            _ => Step::Passed,
        }
    }
}
