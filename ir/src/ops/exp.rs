//! `e^x`, elementwise.
use super::*;
op! {
    /// `e^x`, elementwise.
    Exp = "exp"
}
elementwise! { Exp(x) = x.exp(); floats, 10 }
