//! The bytes of one weights file, mapped or in memory. The only `unsafe` of this crate; knows nothing of formats.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Deref;

use memmap2::Mmap;

/// Bytes that stay where they are for as long as this lives.
#[derive(Debug)]
pub(super) enum Bytes {
    /// A file, mapped read-only and private.
    Mapped(Mmap),
    /// Bytes given by the caller.
    Memory(Cow<'static, [u8]>),
}

impl Bytes {
    /// Maps all of `file`.
    pub(super) fn map(file: &File) -> io::Result<Self> {
        // SAFETY: the map is read-only and is only ever read as plain bytes: headers are copied out before they are
        // parsed, and elements are decoded by value, so that another process writing to the file meanwhile can
        // change numbers but no invariant of ours. Truncating a mapped file raises SIGBUS, as in every program that
        // maps weights; digests are there to notice files that changed between two runs.
        unsafe { Mmap::map(file) }.map(Self::Mapped)
    }

    /// Says that a mapped file will not be read soon, so that what was read of it does not count as this process's memory.
    pub(super) fn release(&self) {
        #[cfg(target_os = "linux")]
        if let Self::Mapped(map) = self {
            // SAFETY: a map for reading: what is read again comes from the file again.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}
