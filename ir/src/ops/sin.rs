//! Sine of radians, elementwise.
use super::*;
op! {
    /// Sine of radians, elementwise.
    Sin = "sin"
}
elementwise! { Sin(x) = x.sin(); floats, 20 }
