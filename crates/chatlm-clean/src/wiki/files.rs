//! Which files of a wiki are meant: as everywhere, and in a folder the dumps as well.

use std::path::{Path, PathBuf};

use chatlm_dataset::expand;
use chatlm_job::{Error, Result};

/// What is packed in the files beside a dump: its index, its tables.
const OTHERS: [&str; 5] = ["txt", "sql", "json", "csv", "tar"];

/// The files meant by `inputs`: those that [`expand`] finds, in a folder `.xml` and `.bz2` too.
pub(crate) fn files(inputs: &[String]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in inputs {
        let dumps = dumps(Path::new(input))?;
        match expand(std::slice::from_ref(input)) {
            Ok(found) => {
                let start = files.len();
                files.extend(found.into_iter().chain(dumps));
                files[start..].sort();
            }
            Err(_) if !dumps.is_empty() => files.extend(dumps),
            Err(error) => return Err(error),
        }
    }
    if files.is_empty() {
        return expand(inputs);
    }
    Ok(files)
}

/// The dumps of a folder, sorted; none of what is no folder.
fn dumps(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let fail = |e: std::io::Error| Error::io(&e, "read", folder);
    let mut dumps = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && is_named_dump(&path) && path.is_file() {
            dumps.push(path);
        }
    }
    dumps.sort();
    Ok(dumps)
}

/// `NAME.xml`, or `NAME.bz2` that does not say that it holds something else.
fn is_named_dump(path: &Path) -> bool {
    let ending = |path: &Path| {
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        ending.to_ascii_lowercase()
    };
    match ending(path).as_str() {
        "xml" => true,
        "bz2" => !OTHERS.contains(&ending(&path.with_extension("")).as_str()),
        _ => false,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_dumps_and_data_files_but_no_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        assert!(files(std::slice::from_ref(&path)).is_err());
        assert!(files(&[]).is_err());
        let names = |names: &[&str]| {
            for name in names {
                std::fs::write(folder.path().join(name), "").unwrap();
            }
            let found = files(std::slice::from_ref(&path)).unwrap();
            let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
            found.iter().map(name).collect::<Vec<_>>()
        };
        let dumps = ["z-index.txt.bz2", "b.xml.bz2", "a.xml", ".c.xml", "d.BZ2"];
        assert_eq!(names(&dumps), ["a.xml", "b.xml.bz2", "d.BZ2"]);
        let all = names(&["c.txt", "e.log"]);
        assert_eq!(all, ["a.xml", "b.xml.bz2", "c.txt", "d.BZ2"]);
    }
}
