//! Root-mean-square normalisation without gain (arXiv 1910.07467).
use super::*;
op! {
    /// `x / sqrt(mean(x^2) + eps)` over the last axis (arXiv 1910.07467). The gain is an ordinary `mul` after it.
    RmsNorm = "rms_norm" {
        /// Added to the mean square.
        eps: Float,
    }
}
impl OpDef for RmsNorm {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        Sum.infer(args)?;
        row_size(Self::NAME, args)?;
        floats(Self::NAME, args, 1)
    }
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x] = *args else { return None };
        Some((|| {
            let scale = inverse_deviation(Self::NAME, g, x, self.eps)?;
            g.add(Mul, &[x, scale])
        })())
    }
    fn flops(&self, _: &[Type], out: &Type) -> Dim {
        out.numel() * 3.into()
    }
}

/// Elements of the last axis, which must not be symbolic.
pub(super) fn row_size(op: &'static str, args: &[Type]) -> Result<i64, TypeError> {
    let known = args
        .first()
        .and_then(|t| t.last().known())
        .filter(|n| *n > 0);
    known.ok_or_else(|| refuse(op, "wants a last axis of known size", args))
}

/// `1 / sqrt(mean(x^2) + eps)` over the last axis.
pub(super) fn inverse_deviation(
    op: &'static str,
    g: &mut Graph,
    x: Value,
    eps: Float,
) -> Result<Value, TypeError> {
    let n = row_size(op, &[g.ty(x).clone()])?;
    let square = g.add(Mul, &[x, x])?;
    let sum = g.add(Sum, &[square])?;
    let count = g.constant_like(x, n as f64);
    let mean = g.add(Div, &[sum, count])?;
    let eps = g.constant_like(x, eps.get());
    let shifted = g.add(Add, &[mean, eps])?;
    g.add(Rsqrt, &[shifted])
}
