//! Text for a tokenizer from wikis: the lines of articles in simplified characters.

use std::io::Write;
use std::path::Path;

use chatlm_dataset::InputOptions;
use chatlm_job::{AtomicFile, Error, Job, Result};
use rayon::prelude::*;

use super::articles::{Articles, is_dump};
use super::{files, plain, simplify};
use crate::chunks;
use crate::options::{CleanOptions, Purpose};
use crate::source::Source;

/// Whether all inputs are dumps of MediaWiki (`chatlm corpus` then takes their articles' lines).
pub fn is_wiki(inputs: &[String]) -> Result<bool> {
    for file in files(inputs)? {
        if !is_dump(&file)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes the lines of the articles of dumps; how many, and how many pages could not be read.
pub fn wiki_corpus(
    inputs: &[String],
    input: &InputOptions,
    output: &Path,
    force: bool,
    job: &Job,
) -> Result<(u64, u64)> {
    let source: Source = "zhwiki".parse()?;
    let mut options = CleanOptions::new(source, Purpose::Pretrain, inputs.to_vec(), output.into());
    options.keep_going = input.keep_going;
    let articles = Articles::open(files(inputs)?, &options);
    let mut file = AtomicFile::create(output, force)?;
    let (mut lines, mut seen) = (0, 0);
    let articles = chunks::each(Box::new(articles), |rows| {
        job.cancel.check()?;
        seen += rows.len() as u64;
        job.progress.report("corpus", seen, None, "articles");
        let texts: Vec<String> = rows
            .into_par_iter()
            .map(|row| {
                let flag = |name: &str| row.fields.get(name).and_then(serde_json::Value::as_bool);
                let other = row
                    .fields
                    .get("namespace")
                    .and_then(serde_json::Value::as_i64)
                    != Some(0);
                if other || flag("redirect") == Some(true) {
                    return Ok(String::new());
                }
                Ok(simplify(&plain(row.text("text")?)).into_owned())
            })
            .collect::<Result<_>>()?;
        for line in texts
            .iter()
            .flat_map(|text| text.lines())
            .filter(|line| !line.is_empty())
        {
            file.write_all(line.as_bytes())
                .and_then(|()| file.write_all(b"\n"))
                .map_err(|e| Error::io(&e, "write", output))?;
            lines += 1;
        }
        Ok(())
    })?;
    job.cancel.check()?;
    file.commit()?;
    Ok((lines, articles.broken()))
}
