//! Exponentials over the last axis, normalised to sum to one.
use super::*;
op! {
    /// `e^(x - max) / sum` over the last axis.
    Softmax = "softmax"
}
impl OpDef for Softmax {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        Amax.infer(args)?;
        floats(Self::NAME, args, 1)
    }
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x] = *args else { return None };
        Some((|| {
            let max = g.add(Amax, &[x])?;
            let shifted = g.add(Sub, &[x, max])?;
            let exp = g.add(Exp, &[shifted])?;
            let sum = g.add(Sum, &[exp])?;
            g.add(Div, &[exp, sum])
        })())
    }
    fn flops(&self, _: &[Type], out: &Type) -> Dim {
        out.numel() * 17.into()
    }
}
