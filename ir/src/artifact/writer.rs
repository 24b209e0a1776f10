//! Writes an artifact in one pass: weights are streamed as they are made, the rest follows, the header comes last.

use super::{ArtifactError, HEADER_BYTES, Header, Manifest, PAGE, Section, Sections};
use std::io::{Seek, SeekFrom, Write};

/// Alignment of each weight, in bytes: a cache line, and the widest vector.
const WEIGHT_ALIGNMENT: u64 = 64;

/// See the module's text. Until [`Writer::finish`] returns, what was written has no valid header.
pub struct Writer<W> {
    out: W,
    position: u64,
    hasher: blake3::Hasher,
    weights: u64,
}

impl<W: Write + Seek> Writer<W> {
    /// Starts an artifact at the beginning of `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W) -> Result<Writer<W>, ArtifactError> {
        out.seek(SeekFrom::Start(0))?;
        out.write_all(&[0; HEADER_BYTES])?;
        Ok(Writer {
            out,
            position: HEADER_BYTES as u64,
            hasher: blake3::Hasher::new(),
            weights: 0,
        })
    }

    /// Appends a weight and returns its offset in the weights.
    ///
    /// # Errors
    /// Those of the output.
    pub fn weight(&mut self, bytes: &[u8]) -> Result<u64, ArtifactError> {
        let zeros = [0; WEIGHT_ALIGNMENT as usize];
        let gap = self.weights.next_multiple_of(WEIGHT_ALIGNMENT) - self.weights;
        for part in [&zeros[..gap as usize], bytes] {
            self.hasher.update(part);
            self.out.write_all(part)?;
            self.weights += part.len() as u64;
        }
        self.position = HEADER_BYTES as u64 + self.weights;
        Ok(self.weights - bytes.len() as u64)
    }

    /// Appends the rest, then the header, and returns the output.
    ///
    /// # Errors
    /// Those of the output, and a plan that names places that do not exist.
    pub fn finish(
        mut self,
        code: &[u8],
        tokenizer: &[u8],
        manifest: &Manifest,
    ) -> Result<W, ArtifactError> {
        let code_bytes = code.len() as u64;
        manifest
            .plan
            .check(&manifest.images, code_bytes, self.weights)?;
        let weights = Section {
            offset: HEADER_BYTES as u64,
            len: self.weights,
            digest: *self.hasher.finalize().as_bytes(),
        };
        let encoded =
            postcard::to_stdvec(manifest).map_err(|e| ArtifactError::Manifest(e.to_string()))?;
        let sections = Sections {
            weights,
            code: self.section(code, PAGE)?,
            tokenizer: self.section(tokenizer, 1)?,
            manifest: self.section(&encoded, 1)?,
        };
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&Header { sections }.encode())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn section(&mut self, bytes: &[u8], alignment: u64) -> Result<Section, ArtifactError> {
        let offset = self.position.next_multiple_of(alignment);
        let zeros = vec![0; (offset - self.position) as usize];
        self.out.write_all(&zeros)?;
        self.out.write_all(bytes)?;
        self.position = offset + bytes.len() as u64;
        Ok(Section {
            offset,
            len: bytes.len() as u64,
            digest: *blake3::hash(bytes).as_bytes(),
        })
    }
}

impl Manifest {
    /// Reads a manifest whose digest has been checked.
    ///
    /// # Errors
    /// [`ArtifactError::Manifest`] when it does not parse.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ArtifactError> {
        postcard::from_bytes(bytes).map_err(|e| ArtifactError::Manifest(e.to_string()))
    }
}
