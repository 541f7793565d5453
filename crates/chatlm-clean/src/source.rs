//! The sources by name, and what can be made of each.

use std::fmt;
use std::str::FromStr;

use chatlm_dataset::{Row, Rows};
use chatlm_job::{Code, Error, Result};

use crate::options::{CleanOptions, Purpose};
use crate::sample::{Rule, Sample};
use crate::sources::KINDS;

/// Turns a row into its samples, nothing cleaned yet; fails where a field is missing.
pub(crate) type Draw = Box<dyn Fn(&Row, &mut Vec<Sample>) -> Result<()> + Send + Sync>;

/// How one source is cleaned for one purpose.
pub(crate) struct Recipe {
    pub draw: Draw,
    pub rules: Vec<Rule>,
}

impl Recipe {
    /// For sources each of whose rows is one sample.
    pub(crate) fn one(
        draw: impl Fn(&Row) -> Result<Sample> + Send + Sync + 'static,
        rules: Vec<Rule>,
    ) -> Self {
        let draw = move |row: &Row, samples: &mut Vec<Sample>| {
            samples.push(draw(row)?);
            Ok(())
        };
        Self {
            draw: Box::new(draw),
            rules,
        }
    }
}

/// Where raw rows come from, in order.
pub(crate) trait Raw: Iterator<Item = Result<Row>> + Send {
    /// Rows passed over because they could not be read.
    fn broken(&self) -> u64;
    /// Byte sequences that were no text.
    fn undecodable(&self) -> u64;
    /// Rows whose broken quote was read as a plain sign.
    fn mended(&self) -> u64 {
        0
    }
}

impl Raw for Rows {
    fn broken(&self) -> u64 {
        Self::broken(self)
    }

    fn undecodable(&self) -> u64 {
        Self::undecodable(self)
    }

    fn mended(&self) -> u64 {
        Self::mended(self)
    }
}

/// All that is known of a source; each file in `sources/` has one.
pub(crate) struct Kind {
    pub name: &'static str,
    /// What its rows can be for.
    pub purposes: &'static [Purpose],
    /// For which of them the reference program has a way.
    pub compat: &'static [Purpose],
    /// Whether the user names the columns.
    pub columns: bool,
    /// Whether its rows may be conversations.
    pub turns: bool,
    pub recipe: fn(&CleanOptions) -> Recipe,
    pub open: fn(&CleanOptions) -> Result<Box<dyn Raw>>,
}

/// Rows of any format.
pub(crate) fn open_rows(options: &CleanOptions) -> Result<Box<dyn Raw>> {
    Ok(Box::new(Rows::open(&options.inputs, &options.input())?))
}

/// Rows of any format, csv with broken quotes and rows of any length mended.
pub(crate) fn open_mended(options: &CleanOptions) -> Result<Box<dyn Raw>> {
    let rows = Rows::open(&options.inputs, &options.input())?;
    Ok(Box::new(rows.ragged(true).mending(true)))
}

/// A raw source this crate knows.
#[derive(Clone, Copy)]
pub struct Source(&'static Kind);

impl Source {
    pub fn all() -> impl Iterator<Item = Self> {
        KINDS.iter().map(|kind| Self(kind))
    }

    pub fn as_str(self) -> &'static str {
        self.0.name
    }

    pub(crate) fn kind(self) -> &'static Kind {
        self.0
    }

    /// Refuses what does not exist of this source.
    pub fn check(self, purpose: Purpose, compat: bool) -> Result<()> {
        let Kind {
            name,
            purposes,
            compat: repeated,
            ..
        } = self.0;
        let usage = |message: String, help: &str| Err(Error::new(Code::Usage, message, help));
        if !purposes.contains(&purpose) {
            return if purpose == Purpose::Dpo {
                usage(
                    format!("{name} holds no preference pairs"),
                    "clean it for sft, then let chatlm reject make the rejected answers",
                )
            } else {
                usage(
                    format!("{name} gives prompt, chosen and rejected"),
                    "add --for dpo, or clean the file as pairs with --response-column",
                )
            };
        }
        if compat && !repeated.contains(&purpose) {
            let names: Vec<&str> = KINDS
                .iter()
                .filter(|kind| kind.compat.contains(&purpose))
                .map(|kind| kind.name)
                .collect();
            return usage(
                format!(
                    "the reference program makes nothing of {name} for {}",
                    purpose.as_str()
                ),
                &format!("leave out --compat, or use it with {}", names.join(", ")),
            );
        }
        Ok(())
    }

    /// The names of the rules that rows pass, in order.
    pub fn rules(self, purpose: Purpose, compat: bool) -> Result<Vec<&'static str>> {
        self.check(purpose, compat)?;
        let mut options = CleanOptions::new(self, purpose, Vec::new(), "".into());
        options.compat = compat;
        let recipe = (self.0.recipe)(&options);
        Ok(recipe.rules.iter().map(|rule| rule.name).collect())
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Source {}

impl fmt::Debug for Source {
    fn fmt(&self, into: &mut fmt::Formatter<'_>) -> fmt::Result {
        into.write_str(self.0.name)
    }
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::all()
            .find(|source| source.as_str() == text)
            .ok_or_else(|| {
                let names: Vec<&str> = Self::all().map(Self::as_str).collect();
                Error::new(
                    Code::Usage,
                    format!("there is no source {text:?}"),
                    format!("give --source one of {}", names.join(", ")),
                )
            })
    }
}
