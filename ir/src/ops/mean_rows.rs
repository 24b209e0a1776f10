//! Mean over intervals of rows: pooling.
use super::*;
op! {
    /// `mean_rows(x: [T, D], lo: i32[B], hi: i32[B]): [B, D]`, the mean of rows `lo[b]..hi[b]`, which must not be
    /// empty.
    MeanRows = "mean_rows"
}
impl OpDef for MeanRows {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x, lo, hi] = arity(Self::NAME, args)?;
        let ([_, d], [b]) = (&x.shape[..], &lo.shape[..]) else {
            return Err(refuse(
                Self::NAME,
                "wants x: [T, D] and lo, hi: i32[B]",
                args,
            ));
        };
        if lo != hi || lo.dtype != DType::I32 || !x.dtype.is_float() {
            return Err(refuse(
                Self::NAME,
                "wants x: [T, D] and lo, hi: i32[B]",
                args,
            ));
        }
        Ok(Type::new(x.dtype, [b.clone(), d.clone()]))
    }
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, lo, hi] = *args else { return None };
        Some((|| {
            let (t, b) = (g.ty(x).shape[0].clone(), g.ty(lo).shape[0].clone());
            let column = Reshape {
                shape: vec![b, 1.into()],
            };
            let row = g.add(Iota { n: vec![t] }, &[])?;
            let lo = g.add(column.clone(), &[lo])?;
            let hi = g.add(column, &[hi])?;
            let (zero, one) = (g.constant(0.0), g.constant(1.0));
            let before = g.add(Lt, &[row, lo])?;
            let within = g.add(Lt, &[row, hi])?;
            let weights = g.add(Select, &[before, zero, one])?;
            let weights = g.add(Select, &[within, weights, zero])?;
            let count = g.add(Sum, &[weights])?;
            let total = g.add(MatMul, &[weights, x])?;
            g.add(Div, &[total, count])
        })())
    }
    fn flops(&self, args: &[Type], _: &Type) -> Dim {
        args[0].numel()
    }
}
