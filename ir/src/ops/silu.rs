//! `x * sigmoid(x)` (swish; arXiv 1702.03118), elementwise.
use super::*;
op! {
    /// `x * sigmoid(x)` (swish; arXiv 1702.03118), elementwise.
    Silu = "silu"
}
composite! { Silu(g, x) = {
    let s = g.add(Sigmoid, &[x])?;
    g.add(Mul, &[x, s])
}; 17 }
