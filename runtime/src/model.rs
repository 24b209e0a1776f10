//! A compiled model, loaded and checked: immutable, shared by any number of sessions. Knows nothing of steps.

use crate::{
    Error,
    devices::{
        Bytes, Device, Engine, Loaded, Room,
        cpu::Cpu,
        cuda::{self, Cuda},
    },
};
use ir::{
    Description, Target,
    artifact::{ArtifactError, HEADER_BYTES, Header, Image, Manifest, Section},
};
use std::{path::Path, sync::Arc};

/// See the module's text.
#[derive(Debug)]
pub struct Model {
    origin: String,
    manifest: Manifest,
    tokenizer: Vec<u8>,
    /// Index of the image that runs here.
    image: usize,
    loaded: Arc<dyn Loaded>,
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
        let (code, weights) = (sections.code.len, sections.weights.len);
        let plan = manifest.plan.check(&manifest.images, code, weights);
        plan.map_err(|e| damaged(ArtifactError::Plan(e)))?;
        let image = runnable(&origin, &manifest.images)?;
        let tokenizer = checked("tokenizer", &sections.tokenizer)?;
        let target = &manifest.images[image].target;
        let loaded: Arc<dyn Loaded> = match Device::of(target) {
            Device::Cpu => Arc::new(Cpu::load(&origin, bytes, &sections)?),
            Device::Cuda => {
                let image = &manifest.images[image];
                Arc::new(Cuda::load(&origin, &bytes, &sections, image)?)
            }
        };
        Ok(Arc::new(Model {
            origin,
            manifest,
            tokenizer,
            image,
            loaded,
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

    /// What the code that runs here was compiled for.
    pub fn target(&self) -> &Target {
        &self.manifest.images[self.image].target
    }

    /// The weights as kernels read them; `None` where they are in a GPU's memory.
    pub fn weights(&self) -> Option<&[u8]> {
        self.loaded.weights()
    }

    /// See [`Loaded::engine`].
    pub(crate) fn engine(&self, room: Room<'_>) -> Result<Box<dyn Engine>, Error> {
        let image = &self.manifest.images[self.image];
        Arc::clone(&self.loaded).engine(&self.manifest.plan, image, room)
    }
}

/// The image that uses most of this machine, among those that run on it.
fn runnable(origin: &str, images: &[Image]) -> Result<usize, Error> {
    let device = images
        .first()
        .map_or(Device::Cpu, |i| Device::of(&i.target));
    let machine = device.host()?;
    let runs = |i: &usize| images[*i].target.missing_on(&machine).is_empty();
    let best = (0..images.len())
        .filter(runs)
        .max_by_key(|i| images[*i].target.features.len());
    if let Some(best) = best {
        return Ok(best);
    }
    let needs = images.last().map(|i| i.target.clone());
    let needs = needs.unwrap_or_else(|| machine.clone());
    Err(Error::Target {
        origin: origin.into(),
        missing: needs.missing_on(&machine),
        needs: Box::new(needs),
        remedy: match device {
            Device::Cpu => "native".into(),
            Device::Cuda => machine.to_string(),
        },
        machine: match device {
            Device::Cpu => format!("this machine, {machine},"),
            Device::Cuda => format!("GPU 0, {},", cuda::gpu()?),
        },
    })
}
