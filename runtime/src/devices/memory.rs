//! Memory that generated code may touch: zeroed pages of our own, and an artifact's bytes wherever they are. Knows
//! nothing of what they mean.

use crate::Error;
use memmap2::{Mmap, MmapMut, MmapOptions, MmapRaw};
use std::{
    fs::File,
    ops::{Deref, Range},
    path::Path,
};

/// Alignment that kernels may count on for weights, in bytes. Weights are at multiples of pages in an artifact.
pub(crate) const WEIGHT_ALIGNMENT: usize = 64;

/// Bytes of weights from which it pays to copy them to large pages: every step reads them all, and a processor's tables
/// of addresses cover far fewer pages of 4 KB.
const LARGE: usize = 32 << 20;

/// Bytes of a buffer, such as a layer's keys, from which it is on large pages: little of it is then touched in vain.
const LARGE_BUFFER: usize = 8 << 20;

/// A large page.
const LARGE_PAGE: usize = 2 << 20;

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
            Ok(pages) => {
                #[cfg(target_os = "linux")]
                if len >= LARGE_BUFFER {
                    // Small pages serve, too.
                    let _ = pages.advise(memmap2::Advice::HugePage);
                }
                Ok(Buffer {
                    pages: pages.into(),
                    bytes: len,
                })
            }
            Err(source) => {
                let what = format!("{bytes} bytes of memory for {what}");
                Err(Error::Io { what, source })
            }
        }
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
pub struct Bytes {
    source: Source,
    /// Whether weights are used where they lie, however many there are.
    in_place: bool,
}

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

    /// The same, never copied to large pages: of a mapped file only those weights are in memory that steps have read.
    #[must_use]
    pub fn in_place(self) -> Bytes {
        Bytes {
            in_place: true,
            ..self
        }
    }

    /// Part of them where kernels may use it as weights: in place, or copied where it is not aligned or where it is so
    /// large that large pages pay. What was copied need not stay in memory.
    ///
    /// # Errors
    /// [`Error::Io`] without memory for a copy that is needed.
    pub fn weights(self, part: Range<usize>) -> Result<(Bytes, usize), Error> {
        let aligned = self[part.clone()]
            .as_ptr()
            .addr()
            .is_multiple_of(WEIGHT_ALIGNMENT);
        if aligned && (self.in_place || part.len() < LARGE || !large_pages()) {
            return Ok((self, part.start));
        }
        match self.copied(part.clone()) {
            Ok(copy) => Ok((copy.into(), 0)),
            Err(_) if aligned => Ok((self, part.start)),
            Err(source) => {
                let what = format!("{} bytes of memory for weights", part.len());
                Err(Error::Io { what, source })
            }
        }
    }

    fn copied(&self, part: Range<usize>) -> std::io::Result<Mmap> {
        let mut copy = MmapMut::map_anon(part.len().max(1))?;
        #[cfg(target_os = "linux")]
        if part.len() >= LARGE {
            // Small pages serve, too.
            let _ = copy.advise(memmap2::Advice::HugePage);
        }
        let threads = std::thread::available_parallelism().map_or(1, Into::into);
        let share = part.len().div_ceil(threads).next_multiple_of(LARGE_PAGE);
        std::thread::scope(|scope| {
            for (i, to) in copy.chunks_mut(share.max(1)).enumerate() {
                let first = part.start + i * share;
                let last = part.end;
                scope.spawn(move || {
                    for (j, page) in to.chunks_mut(LARGE_PAGE).enumerate() {
                        let start = first + j * LARGE_PAGE;
                        let end = last.min(start + page.len());
                        page[..end - start].copy_from_slice(&self[start..end]);
                        self.release(start..end);
                    }
                });
            }
        });
        copy.make_read_only()
    }

    /// Says of weights that are used where they lie that they were only checked.
    pub(super) fn checked(&self, part: Range<usize>) {
        if self.in_place {
            self.release(part);
        }
    }

    /// Says that part of a mapped file will not be read soon, so that it does not count as this process's memory.
    fn release(&self, part: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Source::Mapped(map) = &self.source {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: a file mapped for reading: what is read again comes from the file again.
            let _ = unsafe { map.unchecked_advise_range(advice, part.start, part.len()) };
        }
    }
}

/// Whether the system gives large pages to those who ask.
fn large_pages() -> bool {
    let modes = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    modes.is_ok_and(|m| !m.contains("[never]"))
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.source {
            Source::Mapped(map) => map,
            Source::Owned { bytes, start } => &bytes[*start..],
            Source::Static(bytes) => bytes,
        }
    }
}

impl From<Source> for Bytes {
    fn from(source: Source) -> Bytes {
        Bytes {
            source,
            in_place: false,
        }
    }
}
impl From<Mmap> for Bytes {
    fn from(map: Mmap) -> Bytes {
        Source::Mapped(map).into()
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
        Source::Owned { bytes, start }.into()
    }
}
impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Bytes {
        Source::Static(bytes).into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Whether weights of a mapped file of so many bytes are read where the file is mapped.
    #[test]
    fn weights_in_place_are_not_copied() {
        for len in [LARGE / 2, 2 * LARGE] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(len as u64).unwrap();
            let bytes = Bytes::of_file("weights", &file).unwrap().in_place();
            let mapped = bytes.as_ptr();
            let (bytes, offset) = bytes.weights(64..len).unwrap();
            assert_eq!(bytes[offset..].as_ptr(), mapped.wrapping_add(64), "{len}");
            bytes.checked(64..len);
            assert!(bytes.iter().all(|b| *b == 0));
        }
    }
}
