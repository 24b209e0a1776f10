//! `1 / sqrt(x)`, elementwise.
use super::*;
op! {
    /// `1 / sqrt(x)`, elementwise.
    Rsqrt = "rsqrt"
}
elementwise! { Rsqrt(x) = 1.0 / x.sqrt(); floats, 8 }
