//! What the fuzz targets (`fuzz/` at the top of the repository) need of the inside of this crate. It is there with the
//! feature `fuzzing` alone, and no part of the interface.

use std::io::{self, BufRead, Read};

pub use chatlm_dataset::Row;
use chatlm_job::Error;

pub use crate::compat::decoded;
use crate::options::CleanOptions;
use crate::sample::{Sample, Step};
use crate::source::Raw;
pub use crate::wiki::fuzzing::{Page, Pages};

/// Wikitext as plain text.
pub fn wikitext(text: &str) -> String {
    crate::wiki::plain(text)
}

/// Traditional characters as simplified ones.
pub fn simplified(text: &str) -> String {
    crate::wiki::simplify(text).into_owned()
}

/// A line as the reference program cleans it.
pub fn reference_line(line: &str) -> String {
    crate::wiki::compat::line(line)
}

/// The beginning of an article.
pub fn passage(text: &str, most: usize) -> &str {
    crate::wiki::passage(text, most)
}

/// The pages of a dump up to its end or to where it breaks.
pub fn dump(xml: Box<dyn Read + Send>) -> Pages {
    crate::wiki::fuzzing::dump(xml)
}

/// The articles of text as WikiExtractor writes it.
pub fn extracted(text: Box<dyn BufRead + Send>, docs: bool) -> Pages {
    crate::wiki::fuzzing::extracted(text, docs)
}

/// A file of bz2 streams, decompressed; no more than `most` bytes of it.
pub fn unpacked(file: impl Read + Send + 'static, most: u64) -> io::Result<Vec<u8>> {
    crate::wiki::fuzzing::unpacked(file, most)
}

/// What a source's reader made of its inputs.
#[derive(Debug)]
pub struct Reading {
    pub rows: Vec<Row>,
    pub error: Option<Error>,
    pub broken: u64,
    pub undecodable: u64,
    pub mended: u64,
}

/// Reads the rows of the inputs as the source does, up to the first error.
pub fn rows(options: &CleanOptions) -> Reading {
    let mut read = Reading {
        rows: Vec::new(),
        error: None,
        broken: 0,
        undecodable: 0,
        mended: 0,
    };
    let mut raw: Box<dyn Raw> = match (options.source.kind().open)(options) {
        Ok(raw) => raw,
        Err(error) => {
            read.error = Some(error);
            return read;
        }
    };
    for row in raw.by_ref() {
        match row {
            Ok(row) => read.rows.push(row),
            Err(error) => {
                read.error = Some(error);
                break;
            }
        }
    }
    (read.broken, read.undecodable, read.mended) = (raw.broken(), raw.undecodable(), raw.mended());
    read
}

/// The samples of a row behind the last rule of its source, each with the name of the rule that dropped it.
pub fn walk(
    options: &CleanOptions,
    row: &Row,
) -> Result<Vec<(Sample, Option<&'static str>)>, Error> {
    let recipe = (options.source.kind().recipe)(options);
    let mut samples = Vec::new();
    (recipe.draw)(row, &mut samples)?;
    let passed = samples.into_iter().map(|mut sample| {
        let fell = recipe
            .rules
            .iter()
            .find(|rule| rule.apply(row, &mut sample) == Step::Dropped);
        (sample, fell.map(|rule| rule.name))
    });
    Ok(passed.collect())
}
