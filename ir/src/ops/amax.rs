//! Largest of the last axis, kept as size 1.
use super::*;
op! {
    /// Largest of the last axis, kept as size 1.
    Amax = "amax"
}
reduction! { Amax(row) = row.iter().copied().fold(f64::NEG_INFINITY, f64::max) }
