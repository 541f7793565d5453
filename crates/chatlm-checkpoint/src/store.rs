//! Checkpoints of a run: `step-00000100/` folders, each whole or not there at all.
//!
//! A folder holds safetensors files, `state.json` and `manifest.json` (format version, step, size
//! and SHA-256 of every file). The manifest is written last and the folder renamed into place, so a
//! killed save never counts; a file damaged later is found by its hash and the next older
//! checkpoint is taken.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use chatlm_job::{AtomicDir, Code, Error, Result, require_room, sha256_bytes, sha256_file, tidy};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tensors::{AsPiece, Piece, TensorFile, write_hashed};

const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";
/// Headers, `state.json`, the manifest and the file system's own needs.
const MARGIN: u64 = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    step: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// The tensors of a checkpoint by file name, then by tensor name.
pub type Files<'a> = [(&'static str, BTreeMap<String, Piece<'a>>)];

/// The folder of a run's checkpoints.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
}

/// A checkpoint that was found whole. Its tensors stay on the disk until they are asked for.
#[derive(Debug)]
pub struct Loaded {
    pub path: PathBuf,
    pub step: u64,
    /// What `state.json` holds.
    pub state: Value,
    /// Newer checkpoints that were passed over, each with the reason.
    pub skipped: Vec<String>,
}

impl Loaded {
    /// One of its files of tensors.
    pub fn tensors(&self, name: &str) -> Result<TensorFile> {
        TensorFile::open(&self.path.join(name), Code::CheckpointInvalid)
    }
}

/// Files of tensors in memory of their own, to be written while training goes on.
pub struct Snapshot(Vec<(&'static str, BTreeMap<String, Tensor>)>);

impl Snapshot {
    /// Copies all that a checkpoint holds, by all threads: it is as large as weights and optimizer state.
    pub fn of(files: &Files<'_>) -> Result<Self> {
        let copied = files.iter().map(|(name, pieces)| {
            let copies: Result<BTreeMap<String, Tensor>> = pieces
                .par_iter()
                .map(|(name, piece)| Ok((name.clone(), piece.copied()?)))
                .collect();
            Ok((*name, copies?))
        });
        copied.collect::<Result<_>>().map(Self)
    }
}

/// Bytes of a checkpoint's tensors.
pub fn size_of(files: &Files<'_>) -> u64 {
    let pieces = files.iter().flat_map(|(_, pieces)| pieces.values());
    pieces.map(|piece| piece.size() as u64).sum()
}

impl Checkpoints {
    /// `folder` need not exist; nothing is written before the first [`Self::save`].
    pub fn open(folder: &Path) -> Result<Self> {
        if folder.exists() && !folder.is_dir() {
            return Err(Error::new(
                Code::CheckpointInvalid,
                format!("{} is not a folder", folder.display()),
                "move it away, or choose another out folder",
            )
            .with("file", folder.display().to_string()));
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Where the checkpoint of `step` lies or would lie.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// Writes a checkpoint and answers its folder. One of the same step is replaced. Fails before anything
    /// is written where the disk has no room for it.
    pub fn save<P: AsPiece>(
        &self,
        step: u64,
        tensors: &[(&'static str, BTreeMap<String, P>)],
        state: &Value,
    ) -> Result<PathBuf> {
        let target = self.path(step);
        let pieces = tensors.iter().flat_map(|(_, pieces)| pieces.values());
        let bytes: u64 = pieces.map(|piece| piece.piece().size() as u64).sum();
        require_room(
            &target,
            bytes + MARGIN,
            &format!("the checkpoint of step {step}"),
        )?;
        let dir = AtomicDir::create(&target, true)?;
        let mut files = BTreeMap::new();
        for (name, tensors) in tensors {
            let (bytes, sha256) = write_hashed(&dir.path().join(name), tensors)?;
            files.insert((*name).to_owned(), Entry { bytes, sha256 });
        }
        let text = write_json(&dir.path().join(STATE), state)?;
        let entry = Entry {
            bytes: text.len() as u64,
            sha256: sha256_bytes(&text),
        };
        files.insert(STATE.to_owned(), entry);
        write_json(
            &dir.path().join(MANIFEST),
            &Manifest {
                format: FORMAT,
                step,
                files,
            },
        )?;
        dir.commit()?;
        Ok(target)
    }

    /// [`Self::save`] of a copy.
    pub fn save_snapshot(&self, step: u64, copy: &Snapshot, state: &Value) -> Result<PathBuf> {
        self.save(step, &copy.0, state)
    }

    /// The newest checkpoint that is whole; `None` where there is none. Where there are some but
    /// every one is damaged it is an error: going on from nothing would throw the run away unasked.
    pub fn newest(&self) -> Result<Option<Loaded>> {
        tidy(&self.folder);
        let mut skipped = Vec::new();
        for (step, path) in self.finished()?.into_iter().rev() {
            match load(step, &path) {
                Ok(mut loaded) => {
                    loaded.skipped = skipped;
                    return Ok(Some(loaded));
                }
                Err(error) if error.code() == Code::CheckpointInvalid => {
                    skipped.push(error.message().to_owned());
                }
                Err(error) => return Err(error),
            }
        }
        match skipped.first() {
            None => Ok(None),
            Some(first) => Err(Error::new(
                Code::CheckpointInvalid,
                format!(
                    "no checkpoint in {} is whole: {first}",
                    self.folder.display()
                ),
                "bring the damaged file back from a copy, or start over with --fresh --force",
            )
            .with("file", self.folder.display().to_string())
            .with("skipped", skipped.len())),
        }
    }

    /// The checkpoint of `step`, which has to be whole.
    pub fn at(&self, step: u64) -> Result<Loaded> {
        tidy(&self.folder);
        let finished = self.finished()?;
        let Some(path) = finished.get(&step) else {
            let there: Vec<String> = finished.keys().map(u64::to_string).collect();
            let help = if there.is_empty() {
                "leave --from out to start at step 0".to_owned()
            } else {
                format!("there are those of steps {}", there.join(", "))
            };
            let what = format!("{} has no checkpoint of step {step}", self.folder.display());
            return Err(Error::new(Code::InputNotFound, what, help)
                .with("file", self.path(step).display().to_string()));
        };
        load(step, path)
    }

    /// Steps of the checkpoints that are finished, in order; whether they are whole is not looked at.
    pub fn steps(&self) -> Result<Vec<u64>> {
        Ok(self.finished()?.into_keys().collect())
    }

    /// Removes the checkpoints after `step`.
    pub fn forget_after(&self, step: u64) -> Result<()> {
        for (_, path) in self.finished()?.split_off(&(step + 1)) {
            forget(&path)?;
        }
        Ok(())
    }

    /// Removes all but the newest `keep` checkpoints, and what killed saves left behind.
    pub fn retain(&self, keep: usize) -> Result<()> {
        let finished = self.finished()?;
        let old = finished.len().saturating_sub(keep.max(1));
        for path in finished.values().take(old) {
            forget(path)?;
        }
        tidy(&self.folder);
        self.remove_halves();
        Ok(())
    }

    /// Folders with a manifest, by step.
    fn finished(&self) -> Result<BTreeMap<u64, PathBuf>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(BTreeMap::new());
            }
            Err(error) => return Err(Error::io(&error, "read", &self.folder)),
        };
        let mut found = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(&e, "read", &self.folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let step = name
                .strip_prefix("step-")
                .and_then(|digits| digits.parse().ok());
            if let Some(step) = step
                && entry.path().join(MANIFEST).exists()
            {
                found.insert(step, entry.path());
            }
        }
        Ok(found)
    }

    /// Folders that a killed process had begun to remove.
    fn remove_halves(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("step-") && !entry.path().join(MANIFEST).exists() {
                // Best effort: a leaving that cannot be removed does no harm.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn forget(path: &Path) -> Result<()> {
    // Without its manifest the folder does not count, should this be killed half-way.
    let manifest = path.join(MANIFEST);
    fs::remove_file(&manifest).map_err(|e| Error::io(&e, "remove", &manifest))?;
    fs::remove_dir_all(path).map_err(|e| Error::io(&e, "remove", path))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>> {
    let text = serde_json::to_vec_pretty(value).map_err(Error::internal)?;
    fs::write(path, &text).map_err(|e| Error::io(&e, "write", path))?;
    Ok(text)
}

fn invalid(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(
        Code::CheckpointInvalid,
        format!("{}: {what}", path.display()),
        "bring the file back from a copy, or go on from an older checkpoint",
    )
    .with("file", path.display().to_string())
}

fn load(step: u64, folder: &Path) -> Result<Loaded> {
    let path = folder.join(MANIFEST);
    let text = fs::read(&path).map_err(|e| invalid(&path, e))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| invalid(&path, e))?;
    if manifest.format != FORMAT {
        let what = format!(
            "format {} is not {FORMAT}, the one this version reads",
            manifest.format
        );
        return Err(invalid(&path, what));
    }
    if manifest.step != step {
        return Err(invalid(
            &path,
            format!("it belongs to step {}", manifest.step),
        ));
    }
    for (name, entry) in &manifest.files {
        let path = folder.join(name);
        if name.contains(['/', '\\']) {
            return Err(invalid(&path, "a file outside the checkpoint"));
        }
        let bytes = fs::metadata(&path).map_err(|e| invalid(&path, e))?.len();
        if bytes != entry.bytes {
            return Err(invalid(
                &path,
                format!("{bytes} bytes, not {}", entry.bytes),
            ));
        }
        if sha256_file(&path).map_err(|e| invalid(&path, e.message()))? != entry.sha256 {
            return Err(invalid(&path, "its hash is not the one in manifest.json"));
        }
    }
    let path = folder.join(STATE);
    let text = fs::read(&path).map_err(|e| invalid(&path, e))?;
    let state = serde_json::from_slice(&text).map_err(|e| invalid(&path, e))?;
    Ok(Loaded {
        path: folder.to_owned(),
        step,
        state,
        skipped: Vec::new(),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use candle_core::Device;
    use serde_json::json;

    use super::*;

    fn save(store: &Checkpoints, step: u64) -> PathBuf {
        let value = Tensor::new(&[step as f32, 0.5], &Device::Cpu).unwrap();
        let weights = BTreeMap::from([("w".to_owned(), value)]);
        store
            .save(
                step,
                &[("weights.safetensors", weights)],
                &json!({ "at": step }),
            )
            .unwrap()
    }

    fn store() -> (tempfile::TempDir, Checkpoints) {
        let folder = tempfile::tempdir().unwrap();
        let store = Checkpoints::open(&folder.path().join("checkpoints")).unwrap();
        (folder, store)
    }

    #[test]
    fn a_round_trip_gives_back_tensors_and_state() {
        let (_folder, store) = store();
        assert!(store.newest().unwrap().is_none());
        save(&store, 5);
        let path = save(&store, 100);
        assert!(path.ends_with("step-00000100"));
        let loaded = store.newest().unwrap().unwrap();
        assert_eq!((loaded.step, &loaded.path), (100, &path));
        assert_eq!(loaded.state["at"], 100);
        assert!(loaded.skipped.is_empty());
        let mut file = loaded.tensors("weights.safetensors").unwrap();
        assert_eq!(file.names(), ["w"]);
        let weights = file.read_to("w", &Device::Cpu).unwrap();
        assert_eq!(weights.to_vec1::<f32>().unwrap(), [100.0, 0.5]);
    }

    #[test]
    fn the_same_state_gives_the_same_bytes() {
        let (_a, first) = store();
        let (_b, second) = store();
        let (a, b) = (save(&first, 3), save(&second, 3));
        for name in ["weights.safetensors", "state.json", "manifest.json"] {
            assert_eq!(
                fs::read(a.join(name)).unwrap(),
                fs::read(b.join(name)).unwrap()
            );
        }
    }

    #[test]
    fn a_copy_is_written_as_it_was() {
        let (_a, first) = store();
        let (_b, second) = store();
        let mut values = vec![1f32, 2.0, 3.0];
        let name = "optimizer.safetensors";
        let tensor = Tensor::new(values.as_slice(), &Device::Cpu).unwrap();
        let expected = first.save(
            4,
            &[(name, BTreeMap::from([("a".to_owned(), tensor)]))],
            &json!({}),
        );
        let piece = Piece::Values {
            shape: vec![3],
            values: &values,
        };
        let files = [(name, BTreeMap::from([("a".to_owned(), piece)]))];
        assert_eq!(size_of(&files), 12);
        let copy = Snapshot::of(&files).unwrap();
        values.fill(0.0);
        let written = second.save_snapshot(4, &copy, &json!({})).unwrap();
        let expected = expected.unwrap();
        for name in [name, "manifest.json"] {
            let (one, two) = (fs::read(written.join(name)), fs::read(expected.join(name)));
            assert_eq!(one.unwrap(), two.unwrap(), "{name}");
        }
    }

    #[test]
    fn one_step_is_asked_for_and_those_after_it_forgotten() {
        let (_folder, store) = store();
        for step in [1, 2, 10] {
            save(&store, step);
        }
        assert_eq!(store.at(2).unwrap().state["at"], 2);
        let error = store.at(3).unwrap_err();
        assert_eq!(error.code(), Code::InputNotFound);
        assert!(error.help().contains("1, 2, 10"), "{}", error.help());
        store.forget_after(1).unwrap();
        assert_eq!(store.steps().unwrap(), [1]);
    }

    #[test]
    fn a_replacement_killed_half_way_leaves_the_old_one() {
        let (_folder, store) = store();
        let path = save(&store, 5);
        let aside = store.folder.join(".step-00000005.4000000000-0.old");
        fs::rename(&path, &aside).unwrap();
        assert_eq!(store.newest().unwrap().unwrap().step, 5);
        assert!(path.exists() && !aside.exists());
    }

    #[test]
    fn a_damaged_newest_checkpoint_is_passed_over_and_named() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 5] = [
            ("truncated", |dir| {
                let path = dir.join("weights.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
            }),
            ("one bit", |dir| {
                let path = dir.join("weights.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(&path, &bytes).unwrap();
            }),
            ("state changed", |dir| {
                fs::write(dir.join("state.json"), "{\n  \"at\": 9\n}").unwrap();
            }),
            ("file gone", |dir| {
                fs::remove_file(dir.join("weights.safetensors")).unwrap();
            }),
            ("manifest cut", |dir| {
                fs::write(dir.join("manifest.json"), "{\"format\":").unwrap();
            }),
        ];
        for (name, damage) in damages {
            let (_folder, store) = store();
            save(&store, 1);
            save(&store, 2);
            damage(&save(&store, 3));
            let loaded = store.newest().unwrap().unwrap();
            assert_eq!(loaded.step, 2, "{name}");
            assert_eq!(loaded.skipped.len(), 1, "{name}");
            assert!(
                loaded.skipped[0].contains("step-00000003"),
                "{}",
                loaded.skipped[0]
            );
        }
    }

    #[test]
    fn a_folder_without_a_manifest_does_not_count() {
        let (_folder, store) = store();
        save(&store, 1);
        fs::remove_file(save(&store, 2).join("manifest.json")).unwrap();
        let loaded = store.newest().unwrap().unwrap();
        assert_eq!((loaded.step, loaded.skipped.len()), (1, 0));
    }

    #[test]
    fn damaged_checkpoints_alone_are_an_error_not_a_fresh_start() {
        let (_folder, store) = store();
        fs::write(save(&store, 1).join("state.json"), "{}").unwrap();
        let error = store.newest().unwrap_err();
        assert_eq!(error.code(), Code::CheckpointInvalid);
        assert!(error.help().contains("--fresh"));
    }

    #[test]
    fn the_newest_ones_stay() {
        let (_folder, store) = store();
        let paths: Vec<PathBuf> = [1, 2, 10, 300]
            .iter()
            .map(|&step| save(&store, step))
            .collect();
        let left = store.folder.join(".step-00000007.4000000000-0.partial");
        fs::create_dir(&left).unwrap();
        store.retain(2).unwrap();
        let there: Vec<bool> = paths.iter().map(|path| path.exists()).collect();
        assert_eq!(there, [false, false, true, true]);
        assert!(!left.exists());
        store.retain(0).unwrap();
        assert_eq!(store.newest().unwrap().unwrap().step, 300);
    }
}
