//! The dropped rows: all their columns, and `rule`, `file`, `row`.
//!
//! Which columns there are is known only at the end, so the rows wait as JSON lines in a temporary
//! file beside the target.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use chatlm_dataset::{Cells, Row, Schema, TableWriter};
use chatlm_job::{AtomicFile, Error, Job, Result, check_target};
use serde_json::{Map, Value};

/// Columns of ours; a source's own of these names is called `source_rule` and so on.
const OURS: [&str; 3] = ["rule", "file", "row"];

pub(crate) struct Rejects {
    target: PathBuf,
    force: bool,
    schema: Schema,
    waiting: AtomicFile,
}

impl Rejects {
    pub(crate) fn create(target: &Path, force: bool) -> Result<Self> {
        check_target(target, force)?;
        // Never committed, so it goes whatever happens; the table has a temporary name of its own.
        let waiting = AtomicFile::create(target, true)?;
        Ok(Self {
            target: target.to_owned(),
            force,
            schema: Schema::default(),
            waiting,
        })
    }

    /// Takes in the columns of a row, kept or not.
    pub(crate) fn see(&mut self, row: &Row) {
        self.schema.add_row(&row.fields);
    }

    pub(crate) fn push(&mut self, row: &Row, rule: &str) -> Result<()> {
        let ours = [
            Value::from(rule),
            Value::from(&*row.file),
            Value::from(row.row),
        ];
        let mut line = serde_json::to_vec(&(&row.fields, ours)).map_err(Error::internal)?;
        line.push(b'\n');
        self.waiting
            .write_all(&line)
            .map_err(|e| Error::io(&e, "write", &self.target))
    }

    /// Writes the table.
    pub(crate) fn finish(mut self, job: &Job) -> Result<()> {
        let fail = |e: &std::io::Error| Error::io(e, "write", &self.target);
        self.waiting.flush().map_err(|e| fail(&e))?;
        let columns = self.schema.columns();
        let names: Vec<String> = columns
            .iter()
            .map(|(name, _)| {
                if OURS.contains(name) {
                    format!("source_{name}")
                } else {
                    (*name).to_owned()
                }
            })
            .collect();
        let mut ours = Schema::default();
        let types = [Value::from(""), Value::from(""), Value::from(0)];
        ours.add_row(&OURS.map(str::to_owned).into_iter().zip(types).collect());
        let named = names
            .iter()
            .zip(&columns)
            .map(|(name, (_, kind))| (name.as_str(), *kind));
        let all: Vec<_> = named.chain(ours.columns()).collect();
        let mut table = TableWriter::create(&self.target, &all, self.force)?;
        let file = File::open(self.waiting.path()).map_err(|e| fail(&e))?;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|e| fail(&e))?;
            let (mut fields, values): (Map<String, Value>, [Value; 3]) =
                serde_json::from_str(&line).map_err(Error::internal)?;
            let mut ours_of_row = OURS.map(str::to_owned).into_iter().zip(values).collect();
            let (theirs, ours) = (
                Cells::new(&mut fields, &columns),
                Cells::new(&mut ours_of_row, &ours.columns()),
            );
            table.push(&[theirs.cells(), ours.cells()].concat())?;
            if table.rows().is_multiple_of(1024) {
                job.cancel.check()?;
            }
        }
        table.finish().map(|_| ())
    }
}
