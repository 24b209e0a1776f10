//! `a + b`, elementwise, broadcasting.
use super::*;
op! {
    /// `a + b`, elementwise, broadcasting.
    Add = "add"
}
elementwise! { Add(a, b) = a + b; numbers, 1 }
