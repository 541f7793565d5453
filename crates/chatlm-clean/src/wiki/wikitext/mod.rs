//! Wikitext to plain text: one pass over the text with a stack of what is open, then its lines.
//!
//! Templates, tables, references, files, categories, formulas and tags go; links leave their label,
//! conversions (`-{zh-hans:…;zh-hant:…}-`) the simplified text. What is not closed is taken as text,
//! tables aside. Time is linear in the text whatever it holds. docs/wiki.md shows each construct.

mod conversion;
mod entity;
mod lines;
mod link;
mod scan;

pub(super) use entity::entities;

/// The plain text of an article.
pub(crate) fn plain(wikitext: &str) -> String {
    lines::tidy(&scan::scan(wikitext))
}

#[cfg(test)]
mod tests;
