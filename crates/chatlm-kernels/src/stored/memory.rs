//! Memory that weights lie in: a file that is mapped, or their own.

use std::fs::File;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

/// A file in memory; its pages are read as they are first used, and shared by all processes.
#[derive(Debug)]
pub struct Mapping {
    map: memmap2::Mmap,
}

impl Mapping {
    /// Maps a file. Model files are replaced by renaming, never written in place; a file that
    /// another program cuts off while it is mapped ends this one.
    #[expect(unsafe_code, reason = "mapping a file")]
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is only read; what others could do to the file is told above.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self { map })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Takes whole pages out of this process's memory. They stay in the system's as long as it likes,
    /// and come back when they are read.
    fn release(&self, at: usize, length: usize) {
        #[cfg(unix)]
        {
            /// A multiple of any page's size.
            const PAGE: usize = 1 << 16;
            let from = at.next_multiple_of(PAGE);
            let to = (at + length) / PAGE * PAGE;
            if from < to {
                #[expect(unsafe_code, reason = "advice about mapped memory")]
                // SAFETY: the pages are of a file that is only read here: they come back as they were.
                // Where the advice is refused, nothing changes.
                let _ = unsafe {
                    self.map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        from,
                        to - from,
                    )
                };
            }
        }
        #[cfg(not(unix))]
        let _ = (at, length);
    }
}

/// Values of a number type in one of both.
#[derive(Debug, Clone)]
pub(super) enum Place<T> {
    Mapped {
        map: Arc<Mapping>,
        at: usize,
        count: usize,
        kind: PhantomData<T>,
    },
    Owned(Arc<[T]>),
}

/// Numbers for which any bytes are a value.
pub(super) trait Number: Copy {}
impl Number for f32 {}
impl Number for u16 {}
impl Number for u8 {}

impl<T: Number> Place<T> {
    /// `None` where the bytes are outside the file or not aligned, or numbers lie the other way round.
    pub(super) fn mapped(map: &Arc<Mapping>, at: usize, count: usize) -> Option<Self> {
        let end = count.checked_mul(size_of::<T>())?.checked_add(at)?;
        let bytes = map.bytes().get(at..end)?;
        let aligned = bytes.as_ptr().cast::<T>().is_aligned();
        (aligned && cfg!(target_endian = "little")).then(|| Self::Mapped {
            map: map.clone(),
            at,
            count,
            kind: PhantomData,
        })
    }

    /// Where it is a file's: out of this process's memory, until it is read again.
    pub(super) fn release(&self) {
        if let Self::Mapped { map, at, count, .. } = self {
            map.release(*at, count * size_of::<T>());
        }
    }

    #[expect(unsafe_code, reason = "bytes of a file as numbers")]
    pub(super) fn get(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            Self::Mapped { map, at, count, .. } => {
                let bytes = &map.bytes()[*at..];
                // SAFETY: `mapped` has seen that the bytes are there and aligned, and every pattern
                // of bits is a number.
                unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), *count) }
            }
        }
    }
}
