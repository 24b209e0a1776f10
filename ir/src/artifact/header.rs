//! The header: fixed size, little-endian, checked before anything else is read.

use super::{ArtifactError, FORMAT_VERSION};
use crate::abi::ABI_VERSION;

/// First bytes of every artifact. The line ending catches transfers that translate text.
const MAGIC: [u8; 8] = *b"SATURA\r\n";

/// Alignment of the parts that are mapped.
pub const PAGE: u64 = 4096;

/// Bytes of the header; the weights follow.
pub const HEADER_BYTES: usize = PAGE as usize;

/// Bytes of the header that its digest covers: all before the digest.
const SIGNED: usize = 16 + 4 * SECTION;
const SECTION: usize = 48;

/// One part of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// blake3 of them.
    pub digest: [u8; 32],
}

impl Section {
    /// The part's bytes in the file.
    ///
    /// # Errors
    /// [`ArtifactError::Truncated`] when the file ends before it.
    pub fn of<'a>(&self, part: &'static str, file: &'a [u8]) -> Result<&'a [u8], ArtifactError> {
        let end = self.offset.saturating_add(self.len);
        let range = usize::try_from(self.offset)
            .ok()
            .zip(usize::try_from(end).ok());
        range
            .and_then(|(a, b)| file.get(a..b))
            .ok_or(ArtifactError::Truncated {
                part,
                start: self.offset,
                end,
                len: file.len() as u64,
            })
    }

    /// Compares `bytes`, read from anywhere, with the digest. Several threads hash a large part.
    ///
    /// # Errors
    /// [`ArtifactError::Digest`].
    pub fn check(&self, part: &'static str, bytes: &[u8]) -> Result<(), ArtifactError> {
        let found = blake3::Hasher::new().update_rayon(bytes).finalize();
        compare(part, found, &self.digest)
    }
}

fn compare(
    part: &'static str,
    found: blake3::Hash,
    wanted: &[u8; 32],
) -> Result<(), ArtifactError> {
    let wanted = blake3::Hash::from_bytes(*wanted);
    if found == wanted {
        return Ok(());
    }
    let short = |h: blake3::Hash| h.to_hex()[..16].to_string();
    Err(ArtifactError::Digest {
        part,
        found: short(found),
        wanted: short(wanted),
    })
}

/// The parts of an artifact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sections {
    /// Page-aligned; see [`Plan`](super::Plan) for what is where.
    pub weights: Section,
    /// Page-aligned machine code.
    pub code: Section,
    /// tokenizer.json; may be empty.
    pub tokenizer: Section,
    /// A [`Manifest`](super::Manifest) in postcard form.
    pub manifest: Section,
}

/// The header of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where everything is.
    pub sections: Sections,
}

impl Header {
    /// The header as it stands in the file.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&ABI_VERSION.to_le_bytes());
        let s = &self.sections;
        for (i, section) in [s.weights, s.code, s.tokenizer, s.manifest]
            .iter()
            .enumerate()
        {
            let at = &mut out[16 + i * SECTION..][..SECTION];
            at[..8].copy_from_slice(&section.offset.to_le_bytes());
            at[8..16].copy_from_slice(&section.len.to_le_bytes());
            at[16..].copy_from_slice(&section.digest);
        }
        let digest = blake3::hash(&out[..SIGNED]);
        out[SIGNED..SIGNED + 32].copy_from_slice(digest.as_bytes());
        out
    }

    /// Reads and checks a header, and that every part lies inside a file of `len` bytes.
    ///
    /// # Errors
    /// The first of: no magic, another version, too short, damaged, a part outside the file.
    pub fn decode(bytes: &[u8], len: u64) -> Result<Header, ArtifactError> {
        let start = &bytes[..bytes.len().min(8)];
        if start != MAGIC {
            return Err(ArtifactError::Magic {
                found: start.to_vec(),
                wanted: MAGIC.to_vec(),
            });
        }
        let short = ArtifactError::Truncated {
            part: "the header",
            start: 0,
            end: HEADER_BYTES as u64,
            len,
        };
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err(short);
        };
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        for (what, at, wanted) in [
            ("format", 8, FORMAT_VERSION),
            ("kernel ABI", 12, ABI_VERSION),
        ] {
            let found = u32_at(at);
            if found != wanted {
                return Err(ArtifactError::Version {
                    what,
                    found,
                    wanted,
                });
            }
        }
        let digest = std::array::from_fn(|i| bytes[SIGNED + i]);
        compare("header", blake3::hash(&bytes[..SIGNED]), &digest)?;
        let section = |i: usize| Section {
            offset: u64_at(16 + i * SECTION),
            len: u64_at(24 + i * SECTION),
            digest: std::array::from_fn(|b| bytes[32 + i * SECTION + b]),
        };
        let sections = Sections {
            weights: section(0),
            code: section(1),
            tokenizer: section(2),
            manifest: section(3),
        };
        for (part, s) in [
            ("the weights", sections.weights),
            ("the code", sections.code),
            ("the tokenizer", sections.tokenizer),
            ("the manifest", sections.manifest),
        ] {
            let end = s.offset.saturating_add(s.len);
            if end > len || s.offset < HEADER_BYTES as u64 {
                return Err(ArtifactError::Truncated {
                    part,
                    start: s.offset,
                    end,
                    len,
                });
            }
        }
        Ok(Header { sections })
    }
}
