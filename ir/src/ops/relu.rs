//! `max(x, 0)`, elementwise.
use super::*;
op! {
    /// `max(x, 0)`, elementwise.
    Relu = "relu"
}
composite! { Relu(g, x) = {
    let zero = g.constant_like(x, 0.0);
    g.add(Max, &[x, zero])
}; 1 }
