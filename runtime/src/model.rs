//! A compiled model, loaded and checked: immutable, shared by any number of sessions. Knows nothing of steps.

use crate::{
    Error,
    devices::{
        Bytes,
        cpu::{self, Code},
    },
};
use ir::{
    Description,
    artifact::{ArtifactError, HEADER_BYTES, Header, Manifest, Section},
};
use std::{path::Path, sync::Arc};

/// See the module's text.
#[derive(Debug)]
pub struct Model {
    origin: String,
    manifest: Manifest,
    tokenizer: Vec<u8>,
    code: Code,
    weights: Weights,
}

/// Weights start at `offset`.
#[derive(Debug)]
struct Weights {
    bytes: Bytes,
    offset: usize,
}

impl Model {
    /// Maps the artifact at `path`, checks every byte of it that is used, and makes its code executable.
    ///
    /// Checks find damage, not malice: an artifact is a program, so run only artifacts you trust. The file must not be
    /// changed in place while the model is in use.
    ///
    /// # Errors
    /// What is wrong with the file, or what this machine lacks.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Model>, Error> {
        let path = path.as_ref();
        Model::load(path.display().to_string(), Bytes::map(path)?)
    }

    /// The same from memory, without a copy of the weights unless the bytes are static and not aligned to 64.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Arc<Model>, Error> {
        Model::load("artifact in memory".into(), bytes.into())
    }

    fn load(origin: String, bytes: Bytes) -> Result<Arc<Model>, Error> {
        let damaged = |source| Error::Artifact {
            origin: origin.clone(),
            source,
        };
        let part = |name, section: &Section| section.of(name, &bytes).map_err(damaged);
        // What is decoded is copied first: nothing may change between its check and its use.
        let checked = |name, section: &Section| {
            let copy = part(name, section)?.to_vec();
            section.check(name, &copy).map_err(damaged)?;
            Ok::<_, Error>(copy)
        };
        let start = bytes[..bytes.len().min(HEADER_BYTES)].to_vec();
        let sections = Header::decode(&start, bytes.len() as u64)
            .map_err(damaged)?
            .sections;

        let manifest =
            Manifest::decode(&checked("manifest", &sections.manifest)?).map_err(damaged)?;
        let (code, weights) = (sections.code, sections.weights);
        let plan = manifest.plan.check(code.len, weights.len);
        plan.map_err(|e| damaged(ArtifactError::Plan(e)))?;
        let machine = cpu::host();
        let missing = manifest.target.missing_on(&machine);
        if !missing.is_empty() {
            return Err(Error::Target {
                origin,
                needs: Box::new(manifest.target),
                machine: Box::new(machine),
                missing,
            });
        }

        let tokenizer = checked("tokenizer", &sections.tokenizer)?;
        let code = Code::load(&origin, part("code", &code)?, &code)?;
        part("weights", &weights)?;
        let range = weights.offset as usize..(weights.offset + weights.len) as usize;
        let (bytes, offset) = bytes.weights(range)?;
        weights
            .check("weights", &bytes[offset..][..weights.len as usize])
            .map_err(|source| Error::Artifact {
                origin: origin.clone(),
                source,
            })?;
        let weights = Weights { bytes, offset };
        Ok(Arc::new(Model {
            origin,
            manifest,
            tokenizer,
            code,
            weights,
        }))
    }

    /// The file, or `artifact in memory`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What the model is.
    pub fn description(&self) -> &Description {
        &self.manifest.description
    }

    /// Everything the artifact says about the model: target, plan, the compiler's report.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// tokenizer.json; empty where the checkpoint had none.
    pub fn tokenizer_json(&self) -> &[u8] {
        &self.tokenizer
    }

    pub(crate) fn code(&self) -> &Code {
        &self.code
    }

    /// Address of the first weight.
    pub(crate) fn weights(&self) -> *const u8 {
        self.weights.bytes[self.weights.offset..].as_ptr()
    }
}
