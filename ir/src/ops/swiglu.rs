//! `silu(gate) * up` (arXiv 2002.05202), elementwise.
use super::*;
op! {
    /// `silu(gate) * up` (arXiv 2002.05202), elementwise.
    SwiGlu = "swiglu"
}
composite! { SwiGlu(g, gate, up) = {
    let s = g.add(Silu, &[gate])?;
    g.add(Mul, &[s, up])
}; 18 }
