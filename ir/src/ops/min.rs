//! The smaller of `a` and `b`, elementwise, broadcasting.
use super::*;
op! {
    /// The smaller of `a` and `b`, elementwise, broadcasting.
    Min = "min"
}
elementwise! { Min(a, b) = a.min(b); numbers, 1 }
