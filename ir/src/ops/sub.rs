//! `a - b`, elementwise, broadcasting.
use super::*;
op! {
    /// `a - b`, elementwise, broadcasting.
    Sub = "sub"
}
elementwise! { Sub(a, b) = a - b; numbers, 1 }
