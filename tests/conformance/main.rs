//! The conformance suite on this machine's processor.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod suite;

use compiler::Options;
use ir::{Element, Target};
use runtime::devices::cpu;

/// Elements of groups that products are covered with.
const ELEMENTS: &[Element] = &Element::ALL;
/// Whether a product's sums have one order, however its weights are stored.
const ORDERED: bool = true;

/// Weights as they are stored.
fn stored(target: &Target) -> Options {
    Options::new(target.clone())
}

/// Every target whose code this machine can run.
fn targets() -> Vec<Target> {
    let host = cpu::host();
    Target::names()
        .filter_map(|n| n.parse().ok())
        .filter(|t: &Target| t.missing_on(&host).is_empty())
        .collect()
}
