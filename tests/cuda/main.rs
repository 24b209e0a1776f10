//! What only a machine with a GPU can test: the conformance suite, whole models against their references, and one
//! against itself. Not run by default: `cargo test --test cuda` runs it, on the first GPU.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attention;
mod models;
#[path = "../conformance/suite/mod.rs"]
mod suite;
mod tiles;

use compiler::{Options, backends::cuda::Nvrtc};
use ir::{Element, Target};
use runtime::devices::cuda;
use std::sync::LazyLock;

/// Elements of groups that products are covered with.
const ELEMENTS: &[Element] = &[Element::Q8, Element::Q7, Element::Q4, Element::E4M3];
/// Whether a product's sums have one order, however its weights are stored: loads are of 16 bytes, not of elements.
const ORDERED: bool = false;

/// Weights as they are stored.
fn stored(target: &Target) -> Options {
    static NVRTC: LazyLock<Nvrtc> =
        LazyLock::new(|| satura::nvrtc::find(None).unwrap_or_else(|e| panic!("{e}")));
    Options {
        nvrtc: Some(NVRTC.clone()),
        ..Options::new(target.clone())
    }
}

/// What this machine's GPU runs.
fn targets() -> Vec<Target> {
    vec![cuda::host().unwrap_or_else(|e| panic!("{e}"))]
}
