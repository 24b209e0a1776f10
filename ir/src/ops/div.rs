//! `a / b`, elementwise, broadcasting.
use super::*;
op! {
    /// `a / b`, elementwise, broadcasting.
    Div = "div"
}
elementwise! { Div(a, b) = a / b; floats, 4 }
