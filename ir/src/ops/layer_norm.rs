//! Layer normalisation without gain and bias (arXiv 1607.06450).
use super::{
    rms_norm::{inverse_deviation, row_size},
    *,
};
op! {
    /// `(x - mean) / sqrt(variance + eps)` over the last axis (arXiv 1607.06450). Gain and bias are an ordinary
    /// `mul` and `add` after it.
    LayerNorm = "layer_norm" {
        /// Added to the variance.
        eps: Float,
    }
}
impl OpDef for LayerNorm {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        Sum.infer(args)?;
        row_size(Self::NAME, args)?;
        floats(Self::NAME, args, 1)
    }
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x] = *args else { return None };
        Some((|| {
            let n = row_size(Self::NAME, &[g.ty(x).clone()])?;
            let sum = g.add(Sum, &[x])?;
            let count = g.constant_like(x, n as f64);
            let mean = g.add(Div, &[sum, count])?;
            let centred = g.add(Sub, &[x, mean])?;
            let scale = inverse_deviation(Self::NAME, g, centred, self.eps)?;
            g.add(Mul, &[centred, scale])
        })())
    }
    fn flops(&self, _: &[Type], out: &Type) -> Dim {
        out.numel() * 6.into()
    }
}
