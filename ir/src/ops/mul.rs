//! `a * b`, elementwise, broadcasting.
use super::*;
op! {
    /// `a * b`, elementwise, broadcasting.
    Mul = "mul"
}
elementwise! { Mul(a, b) = a * b; numbers, 1 }
