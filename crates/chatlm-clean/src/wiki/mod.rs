//! Wikipedia: dumps (`pages-articles`, `.xml` or `.xml.bz2`, told by content) and text as WikiExtractor
//! writes it, as rows of `title` and `text`, an article each.
//!
//! Owns reading (`dump`, `bzip`, `extracted`), wikitext to plain text (`wikitext`), simplified
//! characters (`simplify`), titles to questions (`questions`) and the reference program's way
//! (`compat`). The rules that articles pass are those of `sources/zhwiki.rs`.

mod articles;
mod bounded;
mod bzip;
pub(crate) mod compat;
mod corpus;
mod dump;
mod extracted;
mod files;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod numpy;
mod passage;
pub(crate) mod questions;
mod simplify;
mod wikitext;

pub(crate) use articles::Articles;
pub use corpus::{is_wiki, wiki_corpus};
pub(crate) use files::files;
pub(crate) use passage::passage;
pub(crate) use simplify::simplify;
pub(crate) use wikitext::plain;

/// What is known of an article before it is cleaned.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Article {
    pub title: String,
    pub text: String,
    /// Wikitext, or text that is plain already.
    pub markup: bool,
    pub redirect: bool,
    pub namespace: i64,
}

/// Why the next article could not be had.
pub(crate) enum Fault {
    /// This one is broken, the next may be fine.
    Article(String),
    /// Nothing more can be read of the file.
    File(String),
}

/// Bytes of an article's text at most.
pub(crate) const LONGEST: usize = 16 << 20;

/// The lines of files, for [`compat::Compat`].
pub(crate) fn lines(files: Vec<std::path::PathBuf>) -> extracted::Lines {
    extracted::Lines::open(files)
}
