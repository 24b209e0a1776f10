//! The larger of `a` and `b`, elementwise, broadcasting.
use super::*;
op! {
    /// The larger of `a` and `b`, elementwise, broadcasting.
    Max = "max"
}
elementwise! { Max(a, b) = a.max(b); numbers, 1 }
