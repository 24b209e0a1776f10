//! NVIDIA's GPUs, through the driver alone: cubins, one arena, a step as a graph. A machine without them can build this
//! and start it; what it lacks is told when a model is loaded.

mod driver;
mod engine;
mod fault;
mod launch;
mod library;
mod output;
mod reading;

pub use reading::{Reader, read_speed};

use super::{Loaded, Room};
use crate::Error;
use driver::{Context, Kernel, Memory};
use ir::{
    Target,
    artifact::{ArtifactError, Image, Plan, Sections},
};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// What is known of the GPU that would be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// As NVIDIA calls it.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// What its blocks run on.
    pub multiprocessors: usize,
    /// Newest CUDA that the driver speaks.
    pub driver: (i32, i32),
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of it that are free.
    pub free: u64,
}

/// The first GPU that the process sees.
///
/// # Errors
/// There is none, or no driver.
pub fn gpu() -> Result<Gpu, Error> {
    let context = Context::open()?;
    let (free, memory) = context.memory()?;
    Ok(Gpu {
        name: context.name(),
        capability: context.capability,
        multiprocessors: context.processors as usize,
        driver: context.driver(),
        memory,
        free,
    })
}

impl Gpu {
    /// What code it runs; of a GPU that none is generated for a target without features.
    pub fn target(&self) -> Target {
        Target::gpu(self.capability.0, self.capability.1)
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, (major, minor)) = (&self.name, self.capability);
        write!(f, "{name}, compute capability {major}.{minor}")
    }
}

/// What code that GPU runs.
///
/// # Errors
/// As [`gpu`]; or no code is generated for such GPUs.
pub fn host() -> Result<Target, Error> {
    let gpu = gpu()?;
    let target = gpu.target();
    if target.features.is_empty() {
        let known: Vec<&str> = Target::names().filter(|n| n.starts_with("sm_")).collect();
        return Err(Error::Gpu {
            what: "no GPU can be used".into(),
            why: format!(
                "GPU 0 is {gpu}, and code is generated for {} alone; run on the processor (--device cpu)",
                known.join(", ")
            ),
        });
    }
    Ok(target)
}

/// What to do where weights do not fit.
const FEWER_BITS: &str = "end what else uses the GPU, or compile the model with weights of fewer bits (--weights q8 or q4)";

/// See [`Loaded`].
#[derive(Debug)]
pub(crate) struct Cuda {
    context: Arc<Context>,
    /// By offset in the image.
    kernels: BTreeMap<u64, Kernel>,
    weights: Memory,
}

impl Cuda {
    /// Code and weights of an artifact, checked, on the GPU.
    ///
    /// # Errors
    /// Damage, no GPU, or not enough memory on it; `origin` is the artifact's name.
    pub fn load(
        origin: &str,
        file: &[u8],
        sections: &Sections,
        image: &Image,
    ) -> Result<Cuda, Error> {
        let damaged = |source: ArtifactError| Error::Artifact {
            origin: origin.into(),
            source,
        };
        // Before gigabytes are looked at.
        let context = Context::open()?;
        let room = sections.weights.len;
        context.spare(format_args!("{origin}: its weights"), room, FEWER_BITS)?;

        // Copied first: nothing may change between its check and its use.
        let code = sections.code.of("code", file).map_err(damaged)?.to_vec();
        sections.code.check("code", &code).map_err(damaged)?;
        let weights = sections.weights.of("weights", file).map_err(damaged)?;
        sections
            .weights
            .check("weights", weights)
            .map_err(damaged)?;

        let memory = context.allocate("weights", weights.len() as u64, 0)?;
        memory.write(weights)?;
        let (start, end) = (image.offset as usize, (image.offset + image.len) as usize);
        let code = &code[start..end];
        let variants = image.kernels.iter().flat_map(|k| &k.0);
        let mut entries: Vec<u64> = variants.map(|v| v.entry).collect();
        entries.sort_unstable();
        entries.dedup();
        let ends = entries.iter().skip(1).copied().chain([image.len]);
        let by = image.toolkit.map_or(String::new(), |(major, minor)| {
            format!(" (of CUDA {major}.{minor}'s compiler)")
        });
        let what = format!("{origin}: loading its code{by}");
        let kernels = entries.iter().zip(ends).map(|(entry, end)| {
            let cubin = code
                .get(*entry as usize..end as usize)
                .ok_or_else(|| Error::Plan {
                    what: "kernel",
                    name: format!("at byte {entry} of the code"),
                    known: format!("{} bytes of it", image.len),
                })?;
            Ok((*entry, context.kernel(cubin, &what)?))
        });
        Ok(Cuda {
            kernels: kernels.collect::<Result<_, Error>>()?,
            weights: memory,
            context,
        })
    }
}

impl Loaded for Cuda {
    fn weights(&self) -> Option<&[u8]> {
        None
    }

    fn engine(
        self: Arc<Self>,
        plan: &Plan,
        image: &Image,
        room: Room<'_>,
    ) -> Result<Box<dyn super::Engine>, Error> {
        Ok(Box::new(engine::Engine::new(
            self,
            plan,
            image,
            room.capacity,
        )?))
    }
}
