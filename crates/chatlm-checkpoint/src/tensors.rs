//! Safetensors files: the same tensors always give the same bytes, reading holds one tensor's bytes
//! at a time, and every failure names its file.
//!
//! Format: <https://github.com/huggingface/safetensors>; 8 bytes length, a JSON header, raw data.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use chatlm_job::{Code, Error, Hashing, Result};
use chatlm_optim::Source;
use safetensors::tensor::Metadata;
use serde_json::{Map, json};

/// The format's own limit on a header.
const LONGEST_HEADER: u64 = 100_000_000;

/// What a file may hold: a tensor, or values that lie somewhere already and are not copied.
#[derive(Debug, Clone)]
pub enum Piece<'a> {
    Tensor(Tensor),
    Values {
        shape: Vec<usize>,
        values: &'a [f32],
    },
    Bytes {
        shape: Vec<usize>,
        values: &'a [u8],
    },
}

impl Piece<'_> {
    fn dtype(&self) -> DType {
        match self {
            Self::Tensor(tensor) => tensor.dtype(),
            Self::Values { .. } => DType::F32,
            Self::Bytes { .. } => DType::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Tensor(tensor) => tensor.dims(),
            Self::Values { shape, .. } | Self::Bytes { shape, .. } => shape,
        }
    }

    /// Bytes of all elements.
    pub fn size(&self) -> usize {
        self.shape().iter().product::<usize>() * self.dtype().size_in_bytes()
    }

    /// The same values in memory of their own, on the processor.
    pub(crate) fn copied(&self) -> Result<Tensor> {
        match self {
            Self::Values { shape, values } => {
                Tensor::from_slice(values, shape.as_slice(), &Device::Cpu)
            }
            Self::Bytes { shape, values } => {
                Tensor::from_slice(values, shape.as_slice(), &Device::Cpu)
            }
            Self::Tensor(tensor) if tensor.device().is_cpu() => tensor.copy(),
            Self::Tensor(tensor) => tensor.to_device(&Device::Cpu),
        }
        .map_err(Error::internal)
    }

    /// Writes the elements, little-endian.
    fn write<W: Write>(&self, writer: &mut W) -> Result<std::io::Result<()>> {
        let tensor = match self {
            Self::Values { values, .. } => {
                return Ok(pieces(writer, values, |value| value.to_le_bytes()));
            }
            Self::Bytes { values, .. } => return Ok(writer.write_all(values)),
            Self::Tensor(tensor) => tensor
                .to_device(&Device::Cpu)
                .and_then(|tensor| tensor.contiguous())
                .map_err(Error::internal)?,
        };
        let (storage, layout) = tensor.storage_and_layout();
        let (Storage::Cpu(storage), Some((from, to))) = (&*storage, layout.contiguous_offsets())
        else {
            return Err(Error::internal("a contiguous tensor is not one"));
        };
        Ok(match storage {
            CpuStorage::F32(v) => pieces(writer, &v[from..to], |value| value.to_le_bytes()),
            CpuStorage::F64(v) => pieces(writer, &v[from..to], |value| value.to_le_bytes()),
            CpuStorage::I64(v) => pieces(writer, &v[from..to], |value| value.to_le_bytes()),
            CpuStorage::U32(v) => pieces(writer, &v[from..to], |value| value.to_le_bytes()),
            CpuStorage::U8(v) => pieces(writer, &v[from..to], |value| value.to_le_bytes()),
            CpuStorage::F16(v) => pieces(writer, &v[from..to], |v| v.to_bits().to_le_bytes()),
            CpuStorage::BF16(v) => pieces(writer, &v[from..to], |v| v.to_bits().to_le_bytes()),
            _ => return Err(never(tensor.dtype())),
        })
    }
}

fn never(dtype: DType) -> Error {
    Error::internal(format!("tensors of {dtype:?} are never written"))
}

fn pieces<W: Write, T, const N: usize>(
    writer: &mut W,
    values: &[T],
    bytes_of: impl Fn(&T) -> [u8; N],
) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(N << 16);
    for piece in values.chunks(1 << 16) {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(&bytes_of));
        writer.write_all(&bytes)?;
    }
    Ok(())
}

fn dtype_name(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("F32"),
        DType::F16 => Ok("F16"),
        DType::BF16 => Ok("BF16"),
        DType::F64 => Ok("F64"),
        DType::I64 => Ok("I64"),
        DType::U32 => Ok("U32"),
        DType::U8 => Ok("U8"),
        other => Err(never(other)),
    }
}

/// Widest elements first, so that every tensor is aligned; then by name.
fn in_order<P: AsPiece>(tensors: &BTreeMap<String, P>) -> Vec<(&String, Piece<'_>)> {
    let mut order: Vec<_> = tensors.iter().map(|(name, p)| (name, p.piece())).collect();
    order.sort_by_key(|(_, piece)| std::cmp::Reverse(piece.dtype().size_in_bytes()));
    order
}

/// A tensor, or a [`Piece`].
pub trait AsPiece {
    fn piece(&self) -> Piece<'_>;
}

impl AsPiece for Tensor {
    fn piece(&self) -> Piece<'_> {
        Piece::Tensor(self.clone())
    }
}

impl AsPiece for Piece<'_> {
    fn piece(&self) -> Piece<'_> {
        self.clone()
    }
}

fn header(order: &[(&String, Piece<'_>)]) -> Result<Vec<u8>> {
    let mut fields = Map::new();
    // transformers refuses a file that does not say which framework wrote it.
    fields.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0;
    for (name, piece) in order {
        let end = offset + piece.size();
        let entry = json!({
            "dtype": dtype_name(piece.dtype())?,
            "shape": piece.shape(),
            "data_offsets": [offset, end],
        });
        fields.insert((*name).clone(), entry);
        offset = end;
    }
    let mut text = serde_json::to_vec(&fields).map_err(Error::internal)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    Ok(bytes)
}

/// A safetensors file as bytes.
pub fn to_safetensors<P: AsPiece>(tensors: &BTreeMap<String, P>) -> Result<Vec<u8>> {
    let order = in_order(tensors);
    let mut bytes = header(&order)?;
    for (_, piece) in order {
        piece.write(&mut bytes)?.map_err(Error::internal)?;
    }
    Ok(bytes)
}

/// Writes a safetensors file; `path` should lie in a folder that is committed whole.
pub fn write_safetensors<P: AsPiece>(path: &Path, tensors: &BTreeMap<String, P>) -> Result<()> {
    let file = create(path)?;
    let writer = stream(file, tensors, path)?;
    close(writer, path)
}

/// [`write_safetensors`], hashed on the way: the file's length and SHA-256.
pub(crate) fn write_hashed<P: AsPiece>(
    path: &Path,
    tensors: &BTreeMap<String, P>,
) -> Result<(u64, String)> {
    let (writer, bytes, hash) = stream(Hashing::new(create(path)?), tensors, path)?.finish();
    close(writer, path)?;
    Ok((bytes, hash))
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).map_err(|e| Error::io(&e, "write", path))?;
    Ok(BufWriter::with_capacity(1 << 20, file))
}

fn stream<W: Write, P: AsPiece>(
    mut writer: W,
    tensors: &BTreeMap<String, P>,
    path: &Path,
) -> Result<W> {
    let failed = |error: std::io::Error| Error::io(&error, "write", path);
    let order = in_order(tensors);
    writer.write_all(&header(&order)?).map_err(failed)?;
    for (_, piece) in order {
        piece.write(&mut writer)?.map_err(failed)?;
    }
    Ok(writer)
}

/// Synced here, so that a full disk is told as that and not by a hash that differs later.
fn close(writer: BufWriter<File>, path: &Path) -> Result<()> {
    let file = writer
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all())
        .map_err(|e| Error::io(&e, "write", path))
}

/// A safetensors file's header: what is where.
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    /// Where the data begin in the file.
    pub(crate) data: usize,
}

impl Header {
    /// Reads it and leaves the file at the first byte of data; `code` says what a broken file means to
    /// the caller.
    pub(crate) fn read(file: &mut File, path: &Path, code: Code) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io(&error, "read", path);
        let broken = |what: &dyn std::fmt::Display| broken(path, code, what);
        let length = file.metadata().map_err(failed)?.len();
        let mut size = [0; 8];
        file.read_exact(&mut size)
            .map_err(|_| broken(&"it is shorter than 8 bytes"))?;
        let size = u64::from_le_bytes(size);
        if size > LONGEST_HEADER || size + 8 > length {
            return Err(broken(&format!(
                "a header of {size} bytes in a file of {length}"
            )));
        }
        let mut text = vec![0; size as usize];
        file.read_exact(&mut text).map_err(failed)?;
        let metadata: Metadata = serde_json::from_slice(&text).map_err(|e| broken(&e))?;
        let data = metadata.data_len() as u64;
        if 8 + size + data != length {
            return Err(broken(&format!(
                "it should have {} bytes and has {length}",
                8 + size + data
            )));
        }
        Ok(Self {
            metadata,
            data: 8 + size as usize,
        })
    }
}

pub(crate) fn broken(path: &Path, code: Code, what: &dyn std::fmt::Display) -> Error {
    Error::new(
        code,
        format!("{} is not a whole safetensors file: {what}", path.display()),
        "fetch or write the file again; it may have been cut off on the way",
    )
    .with("file", path.display().to_string())
}

/// A safetensors file that is read a tensor at a time.
pub struct TensorFile {
    path: PathBuf,
    code: Code,
    file: File,
    header: Header,
}

impl TensorFile {
    /// `code` says what a broken file means to the caller.
    pub fn open(path: &Path, code: Code) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::io(&e, "read", path))?;
        let header = Header::read(&mut file, path, code)?;
        Ok(Self {
            path: path.to_owned(),
            code,
            file,
            header,
        })
    }

    /// In the order in which they lie.
    pub fn names(&self) -> Vec<String> {
        self.header.metadata.offset_keys()
    }

    pub fn read_to(&mut self, name: &str, device: &Device) -> Result<Tensor> {
        let (path, code) = (&self.path, self.code);
        let broken = |what: &dyn std::fmt::Display| broken(path, code, what);
        let failed = |error: std::io::Error| Error::io(&error, "read", path);
        let info = self.header.metadata.info(name);
        let info = info.ok_or_else(|| broken(&format!("{name} is missing")))?;
        let dtype = DType::try_from(info.dtype).map_err(|_| {
            broken(&format!(
                "{name} is {:?}, which is not read here",
                info.dtype
            ))
        })?;
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        let place = SeekFrom::Start((self.header.data + from) as u64);
        self.file.seek(place).map_err(failed)?;
        self.file.read_exact(&mut bytes).map_err(failed)?;
        Tensor::from_raw_buffer(&bytes, dtype, &info.shape, device)
            .map_err(|e| broken(&format!("{name}: {e}")))
    }
}

impl Source for TensorFile {
    fn look(&self, name: &str) -> Option<(DType, &[usize])> {
        let info = self.header.metadata.info(name)?;
        let dtype = DType::try_from(info.dtype).ok()?;
        Some((dtype, &info.shape))
    }

    fn read(&mut self, name: &str) -> Result<Tensor> {
        self.read_to(name, &Device::Cpu)
    }
}

/// Reads every tensor of a safetensors file; `code` says what a broken one means to the caller.
pub fn read_safetensors(
    path: &Path,
    code: Code,
    device: &Device,
) -> Result<BTreeMap<String, Tensor>> {
    let mut file = TensorFile::open(path, code)?;
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let tensor = file.read_to(&name, device)?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// Whether every element is finite.
pub(crate) fn all_finite(tensor: &Tensor) -> Result<bool> {
    let tensor = tensor
        .to_device(&Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F32))
        .and_then(|t| t.contiguous())
        .map_err(Error::internal)?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
            Ok(values[start..end].iter().all(|value| value.is_finite()))
        }
        _ => Err(Error::internal("a contiguous f32 tensor is not one")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn sample() -> BTreeMap<String, Tensor> {
        let cpu = Device::Cpu;
        [
            (
                "b".to_owned(),
                Tensor::new(&[[1f32, -2.5], [3.0, 4.0]], &cpu).unwrap(),
            ),
            ("a".to_owned(), Tensor::new(&[7u8, 8, 9], &cpu).unwrap()),
            (
                "c.d".to_owned(),
                Tensor::new(&[1f64, 1e-300], &cpu).unwrap(),
            ),
            ("scalar".to_owned(), Tensor::new(5u32, &cpu).unwrap()),
        ]
        .into()
    }

    #[test]
    fn what_is_written_is_read_back_and_by_the_safetensors_crate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write_safetensors(&path, &sample()).unwrap();
        assert_eq!(
            std::fs::read(&path).unwrap(),
            to_safetensors(&sample()).unwrap()
        );
        let back = read_safetensors(&path, Code::ModelInvalid, &Device::Cpu).unwrap();
        assert_eq!(back.keys().collect::<Vec<_>>(), ["a", "b", "c.d", "scalar"]);
        assert_eq!(
            back["b"].to_vec2::<f32>().unwrap(),
            [[1.0, -2.5], [3.0, 4.0]]
        );
        assert_eq!(back["c.d"].to_vec1::<f64>().unwrap(), [1.0, 1e-300]);
        assert_eq!(back["scalar"].to_scalar::<u32>().unwrap(), 5);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(
            safetensors::SafeTensors::deserialize(&bytes).unwrap().len(),
            4
        );
    }

    #[test]
    fn the_same_tensors_give_the_same_bytes_whatever_their_layout() {
        let plain = sample();
        let mut turned = sample();
        let twice = turned["b"].t().unwrap().contiguous().unwrap().t().unwrap();
        assert!(!twice.is_contiguous());
        turned.insert("b".to_owned(), twice);
        assert_eq!(
            to_safetensors(&plain).unwrap(),
            to_safetensors(&turned).unwrap()
        );
    }

    #[test]
    fn a_file_cut_off_anywhere_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let bytes = to_safetensors(&sample()).unwrap();
        for length in [0, 5, 40, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = read_safetensors(&path, Code::ModelInvalid, &Device::Cpu).unwrap_err();
            assert_eq!(error.code(), Code::ModelInvalid);
            assert!(error.message().contains("x.safetensors"), "{error}");
        }
        let mut long = bytes.clone();
        long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        std::fs::write(&path, &long).unwrap();
        assert!(read_safetensors(&path, Code::ModelInvalid, &Device::Cpu).is_err());
    }

    #[test]
    fn a_single_nan_is_found() {
        let good = Tensor::zeros((3, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(all_finite(&good).unwrap());
        let bad = Tensor::new(&[1f32, f32::NAN, 0.0], &Device::Cpu).unwrap();
        assert!(!all_finite(&bad).unwrap());
        assert!(all_finite(&bad.narrow(0, 2, 1).unwrap()).unwrap());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_as_that() {
        let error = write_safetensors(Path::new("/dev/full"), &sample()).unwrap_err();
        assert_eq!(error.code(), Code::DiskFull, "{error}");
    }
}
