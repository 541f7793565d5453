//! What reading leaves on disk for the comparison: normalized texts and band keys, in frames of
//! consecutive rows, appended to one file. A frame carries its checksum, so a file that ends within one
//! (the process was killed) is cut back to the last whole frame and goes on from there.
//!
//! A frame: header, lengths of the texts (u32 each), hashes of the texts (u64), the keys of one band
//! after another (u64), the texts (u16 units). Numbers as the processor holds them: the file never
//! leaves the machine.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chatlm_dataset::read_exact_at;
use chatlm_job::{Error, Job, Result};
use xxhash_rust::xxh3::Xxh3Default;

const MAGIC: u64 = u64::from_le_bytes(*b"CLDEDUP2");
const HEADER: usize = 40;
/// The length of a row that could not be read; its place is kept so that rows keep their numbers.
pub(crate) const BROKEN: u32 = u32::MAX;

/// Rows read and signed, on their way to the file.
#[derive(Debug, Default)]
pub(crate) struct Signed {
    pub(crate) lengths: Vec<u32>,
    pub(crate) hashes: Vec<u64>,
    /// `keys[band * rows + row]`.
    pub(crate) keys: Vec<u64>,
    pub(crate) texts: Vec<u16>,
}

impl Signed {
    fn sections(&self) -> [&[u8]; 4] {
        [
            bytemuck::cast_slice(&self.lengths),
            bytemuck::cast_slice(&self.hashes),
            bytemuck::cast_slice(&self.keys),
            bytemuck::cast_slice(&self.texts),
        ]
    }
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    offset: u64,
    /// Place of its first row.
    first: u64,
    rows: u64,
    units: u64,
}

impl Frame {
    fn hashes(self) -> u64 {
        self.offset + HEADER as u64 + self.rows * 4
    }

    fn keys(self, band: usize) -> u64 {
        self.hashes() + self.rows * 8 * (1 + band as u64)
    }

    fn len(self, bands: usize) -> u64 {
        self.keys(bands) - self.offset + self.units * 2
    }
}

#[derive(Debug)]
pub(crate) struct Spill {
    path: PathBuf,
    file: File,
    bands: usize,
    frames: Vec<Frame>,
    end: u64,
    rows: u64,
}

impl Spill {
    /// Opens or makes the file; whole frames of an earlier run stay.
    pub(crate) fn open(path: &Path, bands: usize, job: &Job) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| Error::io(&e, "open", path))?;
        let mut spill = Self {
            path: path.to_owned(),
            file,
            bands,
            frames: Vec::new(),
            end: 0,
            rows: 0,
        };
        let size = spill.file.metadata().map_err(|e| spill.failed(&e))?.len();
        while let Some(frame) = spill.whole_frame(size) {
            job.cancel.check()?;
            job.progress
                .report("resume", spill.end, Some(size), "bytes");
            spill.note(frame);
        }
        spill
            .file
            .set_len(spill.end)
            .map_err(|e| spill.failed(&e))?;
        Ok(spill)
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        Error::io(error, "write", &self.path)
    }

    fn note(&mut self, frame: Frame) {
        self.end += frame.len(self.bands);
        self.rows += frame.rows;
        self.frames.push(frame);
    }

    /// The frame at the end of what is known, if it is there whole.
    fn whole_frame(&self, size: u64) -> Option<Frame> {
        let mut header = [0u64; HEADER / 8];
        let mut offset = self.end;
        let bytes = bytemuck::cast_slice_mut(&mut header);
        read_exact_at(&self.file, bytes, offset).ok()?;
        let [magic, first, rows, units, checksum] = header;
        let frame = Frame {
            offset,
            first,
            rows,
            units,
        };
        let possible = magic == MAGIC && first == self.rows && rows <= size && units <= size;
        if !possible || offset + frame.len(self.bands) > size {
            return None;
        }
        let mut hasher = Xxh3Default::new();
        let mut buffer = vec![0; 1 << 20];
        let end = offset + frame.len(self.bands);
        offset += HEADER as u64;
        while offset < end {
            let piece = buffer.len().min((end - offset) as usize);
            read_exact_at(&self.file, &mut buffer[..piece], offset).ok()?;
            hasher.update(&buffer[..piece]);
            offset += piece as u64;
        }
        (hasher.digest() == checksum).then_some(frame)
    }

    pub(crate) fn append(&mut self, signed: &Signed) -> Result<()> {
        let frame = Frame {
            offset: self.end,
            first: self.rows,
            rows: signed.lengths.len() as u64,
            units: signed.texts.len() as u64,
        };
        let mut hasher = Xxh3Default::new();
        for section in signed.sections() {
            hasher.update(section);
        }
        let header = [MAGIC, frame.first, frame.rows, frame.units, hasher.digest()];
        let mut write = || {
            self.file.seek(SeekFrom::Start(frame.offset))?;
            self.file.write_all(bytemuck::cast_slice(&header))?;
            for section in signed.sections() {
                self.file.write_all(section)?;
            }
            Ok(())
        };
        write().map_err(|e: std::io::Error| Error::io(&e, "write", &self.path))?;
        self.note(frame);
        Ok(())
    }

    /// Rows in whole frames.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, bytes, offset).map_err(|e| Error::io(&e, "read", &self.path))
    }

    /// Hands on the keys of a band frame after frame with the place of the first; `None` is the band
    /// of the texts' own hashes.
    pub(crate) fn each_keys(
        &self,
        band: Option<usize>,
        mut take: impl FnMut(u64, &[u64]) -> Result<()>,
    ) -> Result<()> {
        let mut keys = Vec::new();
        for frame in &self.frames {
            keys.resize(frame.rows as usize, 0);
            let offset = band.map_or(frame.hashes(), |band| frame.keys(band));
            self.read(offset, bytemuck::cast_slice_mut(&mut keys))?;
            take(frame.first, &keys)?;
        }
        Ok(())
    }

    fn frame_of(&self, place: u64) -> Frame {
        let after = self.frames.partition_point(|frame| frame.first <= place);
        self.frames[after - 1]
    }

    /// One key of a row.
    pub(crate) fn key(&self, band: usize, place: u64) -> Result<u64> {
        let frame = self.frame_of(place);
        let mut key = [0u64];
        let offset = frame.keys(band) + (place - frame.first) * 8;
        self.read(offset, bytemuck::cast_slice_mut(&mut key))?;
        Ok(key[0])
    }
}

/// The texts of a whole spill: any row's at once.
#[derive(Debug)]
pub(crate) struct Texts<'a> {
    spill: &'a Spill,
    /// Where each row's text ends within its frame.
    ends: Vec<u32>,
    pub(crate) broken: Vec<u64>,
}

impl<'a> Texts<'a> {
    pub(crate) fn load(spill: &'a Spill) -> Result<Self> {
        let mut ends = Vec::with_capacity(spill.rows as usize);
        let mut broken = Vec::new();
        let mut lengths = Vec::new();
        for frame in &spill.frames {
            lengths.resize(frame.rows as usize, 0u32);
            let offset = frame.offset + HEADER as u64;
            spill.read(offset, bytemuck::cast_slice_mut(&mut lengths))?;
            let mut end = 0;
            for (&length, place) in lengths.iter().zip(frame.first..) {
                if length == BROKEN {
                    broken.push(place);
                } else {
                    end += length;
                }
                ends.push(end);
            }
        }
        Ok(Self {
            spill,
            ends,
            broken,
        })
    }

    fn start(&self, place: u32, frame: Frame) -> u32 {
        if u64::from(place) == frame.first {
            0
        } else {
            self.ends[place as usize - 1]
        }
    }

    /// UTF-16 units of a row's text.
    pub(crate) fn len(&self, place: u32) -> usize {
        let frame = self.spill.frame_of(u64::from(place));
        (self.ends[place as usize] - self.start(place, frame)) as usize
    }

    /// Reads the text of a row.
    pub(crate) fn read(&self, place: u32, text: &mut Vec<u16>) -> Result<()> {
        let frame = self.spill.frame_of(u64::from(place));
        let start = self.start(place, frame);
        text.resize((self.ends[place as usize] - start) as usize, 0);
        let offset = frame.keys(self.spill.bands) + u64::from(start) * 2;
        self.spill.read(offset, bytemuck::cast_slice_mut(text))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn signed(first: u64, rows: u64) -> Signed {
        let places = first..first + rows;
        let texts: Vec<Vec<u16>> = places
            .clone()
            .map(|p| vec![p as u16; p as usize % 5])
            .collect();
        Signed {
            lengths: texts.iter().map(|text| text.len() as u32).collect(),
            hashes: places.clone().collect(),
            keys: (0..2)
                .flat_map(|band| places.clone().map(move |p| p * 10 + band))
                .collect(),
            texts: texts.concat(),
        }
    }

    #[test]
    fn a_file_cut_anywhere_goes_on_from_its_last_whole_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spill");
        let mut spill = Spill::open(&path, 2, &Job::quiet()).unwrap();
        spill.append(&signed(0, 7)).unwrap();
        let one = spill.end;
        spill.append(&signed(7, 4)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut spill = Spill::open(&path, 2, &Job::quiet()).unwrap();
            let rows = [0, 7, 11][usize::from(cut as u64 >= one) + usize::from(cut == whole.len())];
            assert_eq!(spill.rows(), rows, "{cut}");
            if rows == 7 {
                spill.append(&signed(7, 4)).unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), whole);
            }
        }
        let mut broken = whole.clone();
        broken[one as usize + HEADER + 3] ^= 1;
        std::fs::write(&path, &broken).unwrap();
        assert_eq!(Spill::open(&path, 2, &Job::quiet()).unwrap().rows(), 7);
    }

    #[test]
    fn keys_and_texts_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(&folder.path().join("spill"), 2, &Job::quiet()).unwrap();
        let mut second = signed(7, 4);
        second.lengths[1] = BROKEN;
        second.texts = signed(7, 1)
            .texts
            .into_iter()
            .chain(signed(9, 2).texts)
            .collect();
        spill.append(&signed(0, 7)).unwrap();
        spill.append(&second).unwrap();
        let mut seen = Vec::new();
        spill
            .each_keys(Some(1), |first, keys| {
                assert_eq!(first, seen.len() as u64);
                seen.extend_from_slice(keys);
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, (0..11).map(|p| p * 10 + 1).collect::<Vec<u64>>());
        assert_eq!(spill.key(0, 9).unwrap(), 90);
        let texts = Texts::load(&spill).unwrap();
        assert_eq!(texts.broken, [8]);
        let mut text = Vec::new();
        for place in (0..11u32).filter(|place| *place != 8) {
            texts.read(place, &mut text).unwrap();
            assert_eq!(text, vec![place as u16; place as usize % 5]);
        }
    }
}
