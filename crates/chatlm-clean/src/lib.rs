//! Raw corpora to prompt and response rows: one file a source ([`Source`]), one file a rule
//! ([`rules`]). A source is a list of named rules; each row passes them in order until one drops it,
//! and how many each dropped is the funnel of the report. docs/cleaning.md tells every rule and list.
//!
//! By default the bugs of the reference program (charent/ChatLM-mini-Chinese,
//! `utils/raw_data_process.py`) are mended and its thresholds kept; `compat` repeats it bug for bug.
//! Leaves reading and writing tables to `chatlm-dataset`.

mod chunks;
mod compat;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod options;
mod rejects;
mod report;
pub mod rules;
mod run;
mod sample;
mod source;
mod sources;
mod wiki;

pub use options::{CleanOptions, CleanReport, Purpose, Turns};
pub use run::clean;
pub use sample::{Rule, Sample, Step};
pub use source::Source;
pub use wiki::{is_wiki, wiki_corpus};
