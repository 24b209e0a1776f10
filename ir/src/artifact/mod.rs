//! The artifact: one file that holds a compiled model. Says what it holds and proves it before a byte of it runs.
//!
//! ```text
//! header     4096 bytes: magic, versions, where the other parts are and their digests, its own digest
//! weights    page-aligned, each tensor 64-byte aligned, in the layout kernels read
//! code       page-aligned: an image for each target, position-independent, without relocations
//! tokenizer  tokenizer.json as it was; may be empty
//! manifest   images, description, plan, report
//! ```
//!
//! Weights come first because they are streamed while the rest is not known yet; the header is written last.
//! This file knows bytes, not files: reading and mapping are the runtime's.

mod header;
mod image;
mod plan;
mod work;
mod writer;

pub use header::{HEADER_BYTES, Header, PAGE, Section, Sections};
pub use image::{Image, Tasks, TensorMap, Variant, Variants, Workers};
pub use plan::{Base, Launch, Layer, LayerResult, Place, Plan, PlanError, Port};
pub use work::{Attention, Core, Product, Work};
pub use writer::Writer;

use crate::Description;
use serde::{Deserialize, Serialize};

/// Version of the file format; another one is refused.
pub const FORMAT_VERSION: u32 = 6;

/// Everything about a compiled model but its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the compiler that wrote it.
    pub compiler: String,
    /// Code for one target or more of one architecture; never empty.
    pub images: Vec<Image>,
    /// What the model is.
    pub description: Description,
    /// What to run.
    pub plan: Plan,
    /// What the compiler did and why: `(heading, text)`, for people.
    pub report: Vec<(String, String)>,
}

/// Why bytes are no artifact that can be run here.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Not an artifact at all.
    #[error("not a satura artifact: it starts with {found:02x?}, an artifact with {wanted:02x?}")]
    Magic {
        /// First bytes.
        found: Vec<u8>,
        /// The magic.
        wanted: Vec<u8>,
    },
    /// Written by another version.
    #[error(
        "{what} version {found}, this build reads {wanted}; compile the model again with this build"
    )]
    Version {
        /// `format` or `kernel ABI`.
        what: &'static str,
        /// In the file.
        found: u32,
        /// Of this build.
        wanted: u32,
    },
    /// A part lies beyond the end of the file, or overlaps another.
    #[error(
        "truncated or damaged: {part} should be bytes {start}..{end} of a file of {len} bytes; copy or compile it again"
    )]
    Truncated {
        /// Which part.
        part: &'static str,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Of the file.
        len: u64,
    },
    /// A digest does not match its part.
    #[error(
        "damaged: the {part} has digest {found}, the header says {wanted}; copy or compile it again"
    )]
    Digest {
        /// Which part.
        part: &'static str,
        /// Of the bytes, first 16 hex digits.
        found: String,
        /// In the header, first 16 hex digits.
        wanted: String,
    },
    /// The manifest does not parse although its digest matches.
    #[error("the manifest does not parse: {0}; compile the model again with this build")]
    Manifest(String),
    /// The plan names places that do not exist.
    #[error("the plan is inconsistent: {0}")]
    Plan(#[from] PlanError),
    /// Writing failed.
    #[error("writing the artifact: {0}")]
    Io(#[from] std::io::Error),
}
