//! The row being made: what rules look at and change.

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

    /// Rewrites every text.
    pub fn rewrite(&mut self, rewrite: impl Fn(&str) -> String) {
        self.prompt = rewrite(&self.prompt);
        for answer in &mut self.answers {
            *answer = rewrite(answer);
        }
    }
}

type Run = Box<dyn Fn(&Row, &mut Sample) -> bool + Send + Sync>;

/// One named step of a source: it rewrites the sample, or drops the row.
pub struct Rule {
    pub name: &'static str,
    /// Whether the rule can drop rows, and so is a line of the funnel.
    pub drops: bool,
    run: Run,
}

impl Rule {
    /// A rule that rewrites every text.
    pub fn rewrite(
        name: &'static str,
        rewrite: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            drops: false,
            run: Box::new(move |_, sample| {
                sample.rewrite(&rewrite);
                true
            }),
        }
    }

    /// A rule that drops the samples for which `falls` holds.
    pub fn drop(
        name: &'static str,
        falls: impl Fn(&Sample) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            drops: true,
            run: Box::new(move |_, sample| !falls(sample)),
        }
    }

    /// A rule that drops by the raw row.
    pub fn drop_row(
        name: &'static str,
        falls: impl Fn(&Row) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            drops: true,
            run: Box::new(move |row, _| !falls(row)),
        }
    }

    /// Applies the rule; false where the row falls.
    pub fn keeps(&self, row: &Row, sample: &mut Sample) -> bool {
        (self.run)(row, sample)
    }
}
