//! Memory that generated code may touch: zeroed pages of our own, and an artifact's bytes wherever they are. Knows
//! nothing of what they mean.

use crate::Error;
use memmap2::{Mmap, MmapOptions, MmapRaw};
use std::{fs::File, ops::Deref, path::Path};

/// Alignment that kernels may count on for weights, in bytes. Weights are at multiples of pages in an artifact.
pub(crate) const WEIGHT_ALIGNMENT: usize = 64;

/// Page-aligned memory, zero at first; pages never touched cost nothing. Kernels on several threads write to it while
/// others read, so it is reached by address only.
#[derive(Debug)]
pub(crate) struct Buffer {
    pages: MmapRaw,
    bytes: usize,
}

impl Buffer {
    /// `bytes` of zeros for `what`.
    pub fn zeroed(what: &str, bytes: u64) -> Result<Buffer, Error> {
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        // At least a byte, since the system maps nothing less; without swap reserved, since most of it stays untouched.
        let pages = MmapOptions::new()
            .len(len.max(1))
            .no_reserve_swap()
            .map_anon();
        match pages {
            Ok(pages) => Ok(Buffer {
                pages: pages.into(),
                bytes: len,
            }),
            Err(source) => {
                let what = format!("{bytes} bytes of memory for {what}");
                Err(Error::Io { what, source })
            }
        }
    }

    /// Page-aligned memory that holds `bytes`.
    pub fn copied(what: &str, bytes: &[u8]) -> Result<Buffer, Error> {
        let buffer = Buffer::zeroed(what, bytes.len() as u64)?;
        // SAFETY: the buffer has that many bytes and is new, so nobody else reaches it.
        unsafe {
            buffer
                .address()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        Ok(buffer)
    }

    /// First byte.
    pub fn address(&self) -> *mut u8 {
        self.pages.as_mut_ptr()
    }

    /// As asked for.
    pub fn len(&self) -> usize {
        self.bytes
    }
}

/// An artifact's bytes: a mapped file, memory, or a part of the program itself.
#[derive(Debug)]
pub struct Bytes(Source);

#[derive(Debug)]
enum Source {
    Mapped(Mmap),
    /// From `start` on.
    Owned {
        bytes: Vec<u8>,
        start: usize,
    },
    Static(&'static [u8]),
}

impl Bytes {
    /// Maps a file for reading.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn map(path: &Path) -> Result<Bytes, Error> {
        let what = path.display().to_string();
        match File::open(path) {
            Ok(file) => Bytes::of_file(&what, &file),
            Err(source) => Err(Error::Io { what, source }),
        }
    }

    /// Maps an open file, which need not have a name; `what` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of_file(what: &str, file: &File) -> Result<Bytes, Error> {
        let failed = |source| Error::Io {
            what: what.into(),
            source,
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(std::io::Error::other("not a file")));
        }
        if metadata.len() == 0 {
            return Ok(vec![].into());
        }
        // SAFETY: artifacts are written under another name and renamed, never changed in place. One that is changed
        // in place nevertheless gives wrong numbers: code and plan are copied before they are checked and used, and
        // weights are only ever numbers.
        let map = unsafe { Mmap::map(file) }.map_err(failed)?;
        // Reading ahead is a hint; the checks read everything anyway.
        #[cfg(unix)]
        let _ = map.advise(memmap2::Advice::WillNeed);
        Ok(map.into())
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Source::Mapped(map) => map,
            Source::Owned { bytes, start } => &bytes[*start..],
            Source::Static(bytes) => bytes,
        }
    }
}

impl From<Mmap> for Bytes {
    fn from(map: Mmap) -> Bytes {
        Bytes(Source::Mapped(map))
    }
}
impl From<Vec<u8>> for Bytes {
    /// Moves the bytes within their allocation, so that they start where weights may be used in place: a large
    /// artifact is not in memory twice.
    fn from(mut bytes: Vec<u8>) -> Bytes {
        bytes.reserve_exact(WEIGHT_ALIGNMENT);
        let start = bytes.as_ptr().align_offset(WEIGHT_ALIGNMENT);
        // A start that cannot be computed only means a copy later.
        let start = if start < WEIGHT_ALIGNMENT { start } else { 0 };
        let len = bytes.len();
        bytes.resize(len + start, 0);
        bytes.copy_within(..len, start);
        Bytes(Source::Owned { bytes, start })
    }
}
impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Bytes {
        Bytes(Source::Static(bytes))
    }
}
