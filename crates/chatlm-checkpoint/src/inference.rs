//! Model folders for answering: weights stay where they lie, in the mapped file, wherever the file
//! holds the wanted precision; others are converted row by row, so that no second copy is ever held.
//!
//! An int8 folder is a model folder whose matrices are U8 tensors (value + 128) with an F32 tensor
//! `NAME.scale`, one number a row; norms and biases are F32. `config.json` says so under
//! `quantization_config`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chatlm_job::{Code, Error, Result};
use chatlm_t5::{
    Config, Mapping, Stored, StoredBuilder, StoredKind, WeightSource, Weights, is_copy, is_small,
    weight_shapes,
};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::model::{
    ConfigFile, INT8_METHOD, UNUSED, WEIGHTS, invalid, read_config, read_generation, read_json,
    weight_files, write_json,
};
use crate::tensors::{Header, Piece, broken, write_safetensors};

/// A model folder, ready to answer.
#[derive(Debug)]
pub struct InferenceFolder {
    pub config: Config,
    pub weights: Arc<Weights>,
    /// `generation_config.json`, or an empty object.
    pub generation: Value,
    /// The precision of the matrices in memory.
    pub kind: StoredKind,
}

/// Reads a folder for answering, its matrices as `kind`, or as the files hold them.
///
/// Whether all weights are finite is not looked at here, since that would read them all.
pub fn load_weights(dir: &Path, kind: Option<StoredKind>) -> Result<InferenceFolder> {
    let mut source = Folder::open(dir)?;
    let kind = match kind {
        Some(kind) if source.int8 && kind != StoredKind::Int8 => {
            return Err(invalid(
                dir,
                format!("the weights are int8, and {kind:?} is asked for"),
                "leave out --dtype, or give the folder that it was exported from",
            ));
        }
        Some(kind) => kind,
        None => source.kind(),
    };
    source.wanted = kind;
    let weights = Weights::new(&source.config.clone(), &mut source)
        .map_err(|e| e.with("file", dir.display().to_string()))?;
    Ok(InferenceFolder {
        config: source.config,
        weights: Arc::new(weights),
        generation: read_generation(dir)?,
        kind,
    })
}

/// Writes a folder with int8 weights; `to` is a folder that the caller commits whole. The
/// tokenizer's files are the caller's.
pub fn save_int8(from: &Path, to: &Path) -> Result<()> {
    let mut source = Folder::open(from)?;
    if source.int8 {
        return Err(invalid(
            from,
            "the weights are int8 already",
            "give the folder that it was exported from",
        ));
    }
    source.wanted = StoredKind::Int8;
    let mut all = BTreeMap::new();
    for (name, shape) in weight_shapes(&source.config) {
        let weight = source.weight(&name, shape)?;
        let values = match weight.int8() {
            Some(_) => Vec::new(),
            None => weight.to_f32()?,
        };
        all.insert(name, (weight, values));
    }
    let mut pieces = BTreeMap::new();
    for (name, (weight, values)) in &all {
        let (out, inner) = weight.shape();
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        let whole = if let Some((bytes, scales)) = weight.int8() {
            let (shape, values) = (vec![out, inner], scales);
            let scale = Piece::Values {
                shape: vec![out],
                values,
            };
            pieces.insert(format!("{name}.scale"), scale);
            let values = bytes;
            pieces.insert(name.clone(), Piece::Bytes { shape, values });
            finite(scales)
        } else {
            let shape = if out == 1 {
                vec![inner]
            } else {
                vec![out, inner]
            };
            pieces.insert(name.clone(), Piece::Values { shape, values });
            finite(values)
        };
        if !whole {
            return Err(not_finite(from, name));
        }
    }
    let mut config = read_json(&from.join("config.json"))?;
    config["quantization_config"] = json!({ "quant_method": INT8_METHOD, "bits": 8 });
    write_json(&to.join("config.json"), &config)?;
    write_json(&to.join("generation_config.json"), &source.generation)?;
    write_safetensors(&to.join(WEIGHTS), &pieces)
}

fn not_finite(dir: &Path, name: &str) -> Error {
    Error::new(
        Code::NotFinite,
        format!("{}: weight {name} holds values that are not finite", dir.display()),
        "the training that wrote it went wrong: take an earlier checkpoint, and a lower learning rate",
    )
    .with("file", dir.display().to_string())
    .with("field", name)
}

/// Names the first weight of a folder that is not finite, where there is one: it reads them all.
pub fn find_not_finite(dir: &Path) -> Result<()> {
    let mut source = Folder::open(dir)?;
    source.wanted = source.kind();
    for (name, shape) in weight_shapes(&source.config) {
        let weight = source.weight(&name, shape)?;
        let mut row = vec![0.0; shape.1];
        for place in 0..shape.0 {
            weight.row(place, &mut row)?;
            if !row.iter().all(|value| value.is_finite()) {
                return Err(not_finite(dir, &name));
            }
        }
    }
    Ok(())
}

fn not_fitting(name: &str, what: &str) -> Error {
    Error::new(
        Code::ModelInvalid,
        format!("weight {name} {what}"),
        "the folder must hold a T5ForConditionalGeneration whose config.json fits its weights",
    )
    .with("field", name)
}

/// One weight in a file.
#[derive(Debug, Clone)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// The first byte in the file.
    at: usize,
}

struct Open {
    path: PathBuf,
    file: File,
    map: Arc<Mapping>,
}

/// The files of a folder.
struct Folder {
    config: Config,
    generation: Value,
    int8: bool,
    files: Vec<Open>,
    entries: HashMap<String, Entry>,
    wanted: StoredKind,
}

/// Bytes that are converted at once.
const PIECE: usize = 1 << 20;

impl Folder {
    fn open(dir: &Path) -> Result<Self> {
        let ConfigFile {
            mut config,
            unscaled,
            int8,
        } = read_config(dir)?;
        let (mut files, mut entries) = (Vec::new(), HashMap::new());
        for path in weight_files(dir)? {
            let failed = |error: std::io::Error| Error::io(&error, "read", &path);
            let mut file = File::open(&path).map_err(failed)?;
            let header = Header::read(&mut file, &path, Code::ModelInvalid)?;
            let map = Arc::new(Mapping::open(&path).map_err(failed)?);
            for (name, info) in header.metadata.tensors() {
                let entry = Entry {
                    file: files.len(),
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    at: header.data + info.data_offsets.0,
                };
                entries.insert(name, entry);
            }
            files.push(Open { path, file, map });
        }
        entries.remove(UNUSED);
        // Some files name the embedding by one of its copies only.
        if !entries.contains_key("shared.weight")
            && let Some(copy) = entries.get("encoder.embed_tokens.weight").cloned()
        {
            entries.insert("shared.weight".to_owned(), copy);
        }
        if unscaled && config.tie_word_embeddings {
            config.tie_word_embeddings = false;
            if let Some(shared) = entries.get("shared.weight").cloned() {
                entries.entry("lm_head.weight".to_owned()).or_insert(shared);
            }
        }
        let known: HashSet<String> = weight_shapes(&config).into_iter().map(|(n, _)| n).collect();
        let scale = |name: &str| {
            name.strip_suffix(".scale")
                .is_some_and(|n| known.contains(n))
        };
        let strange = entries
            .keys()
            .filter(|name| !known.contains(*name) && !is_copy(&config, name))
            .find(|name| !(int8 && scale(name)));
        if let Some(name) = strange {
            return Err(not_fitting(name, "is not part of this model"));
        }
        Ok(Self {
            config,
            generation: read_generation(dir)?,
            int8,
            files,
            entries,
            wanted: StoredKind::F32,
        })
    }

    /// The precision that the files hold.
    fn kind(&self) -> StoredKind {
        match self.entries.get("shared.weight").map(|entry| entry.dtype) {
            Some(Dtype::BF16) => StoredKind::Bf16,
            Some(Dtype::F16) => StoredKind::F16,
            Some(Dtype::U8) if self.int8 => StoredKind::Int8,
            _ => StoredKind::F32,
        }
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<Entry> {
        let entry = self.entries.get(name);
        let entry = entry.ok_or_else(|| not_fitting(name, "is missing"))?;
        let fits = entry.shape == shape || (shape[0] == 1 && entry.shape == shape[1..]);
        if !fits {
            let what = format!("has shape {:?}, not {shape:?}", entry.shape);
            return Err(not_fitting(name, &what));
        }
        Ok(entry.clone())
    }

    /// Reads whole rows, some at a time, as f32.
    fn rows(
        &mut self,
        name: &str,
        entry: &Entry,
        (out, inner): (usize, usize),
        mut take: impl FnMut(&[f32]),
    ) -> Result<()> {
        let open = &mut self.files[entry.file];
        let path = &open.path;
        let failed = |error: std::io::Error| Error::io(&error, "read", path);
        open.file
            .seek(SeekFrom::Start(entry.at as u64))
            .map_err(failed)?;
        let widen: fn(&[u8]) -> f32 = match entry.dtype {
            Dtype::F32 => |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Dtype::BF16 => |b| f32::from_bits(u32::from_le_bytes([0, 0, b[0], b[1]])),
            Dtype::F16 => |b| half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Dtype::F64 => |b| f64::from_le_bytes(b.try_into().unwrap_or_default()) as f32,
            other => {
                let what = format!("{name} is {other:?}, which is not read here");
                return Err(broken(path, Code::ModelInvalid, &what));
            }
        };
        let size = entry.dtype.bitsize() / 8;
        let at_once = (PIECE / (inner * size).max(1)).max(1);
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for from in (0..out).step_by(at_once) {
            let count = at_once.min(out - from) * inner;
            bytes.resize(count * size, 0);
            open.file.read_exact(&mut bytes).map_err(failed)?;
            values.clear();
            values.extend(bytes.chunks_exact(size).map(widen));
            take(&values);
        }
        Ok(())
    }
}

impl WeightSource for Folder {
    fn weight(&mut self, name: &str, (out, inner): (usize, usize)) -> Result<Stored> {
        let entry = self.find(name, &[out, inner])?;
        let wanted = if is_small(name) {
            StoredKind::F32
        } else {
            self.wanted
        };
        let (kind, scales) = match entry.dtype {
            Dtype::F32 => (Some(StoredKind::F32), None),
            Dtype::F16 => (Some(StoredKind::F16), None),
            Dtype::BF16 => (Some(StoredKind::Bf16), None),
            Dtype::U8 if self.int8 => {
                let scales = self.find(&format!("{name}.scale"), &[1, out])?;
                (Some(StoredKind::Int8), Some(scales.at))
            }
            _ => (None, None),
        };
        if kind == Some(wanted) {
            let map = &self.files[entry.file].map;
            let mapped = Stored::mapped(map, (out, inner), wanted, entry.at, scales);
            if let Some(mapped) = mapped {
                return Ok(mapped);
            }
        }
        let mut builder = StoredBuilder::new((out, inner), wanted);
        self.rows(name, &entry, (out, inner), |rows| builder.push(rows))?;
        Ok(builder.finish())
    }
}
