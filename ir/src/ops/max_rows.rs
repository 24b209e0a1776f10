//! Maximum over intervals of rows: pooling.
use super::*;

/// What a difference between elements is multiplied by before its exponential is taken.
const SHARPNESS: f64 = 1e20;

op! {
    /// `max_rows(x: f32[T, D], lo: i32[B], hi: i32[B]): [B, D]`, the largest elements of rows `lo[b]..hi[b]`, which must
    /// not be empty. Elements are at most 1e9 from zero, and those within 1e-11 of zero count as equal.
    MaxRows = "max_rows"
}
impl OpDef for MaxRows {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x, lo, hi] = arity(Self::NAME, args)?;
        let ([_, d], [b]) = (&x.shape[..], &lo.shape[..]) else {
            return Err(refuse(
                Self::NAME,
                "wants x: [T, D] and lo, hi: i32[B]",
                args,
            ));
        };
        if lo != hi || lo.dtype != DType::I32 || x.dtype != DType::F32 {
            return Err(refuse(
                Self::NAME,
                "wants x: f32[T, D] and lo, hi: i32[B]",
                args,
            ));
        }
        Ok(Type::new(x.dtype, [b.clone(), d.clone()]))
    }
    /// Attention of as many heads as there are columns, each of one dimension: scores so far apart that only the largest
    /// element has any weight.
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, lo, hi] = *args else { return None };
        Some((|| {
            let (t, d) = (g.ty(x).shape[0].clone(), g.ty(x).shape[1].clone());
            let b = g.ty(lo).shape[0].clone();
            let heads = |rows: &Dim| Reshape {
                shape: vec![rows.clone(), d.clone(), 1.into()],
            };
            // A query of ones, of the right shape: one more than nothing.
            let queries = g.add(Gather, &[x, lo])?;
            let queries = g.add(Sub, &[queries, queries])?;
            let one = g.constant_like(queries, 1.0);
            let queries = g.add(Add, &[queries, one])?;
            let queries = g.add(heads(&b), &[queries])?;
            let rows = g.add(heads(&t), &[x])?;
            let sharp = Attention {
                scale: SHARPNESS.into(),
                softcap: 0.0.into(),
            };
            let max = g.add(sharp, &[queries, rows, rows, lo, hi])?;
            g.add(Reshape { shape: vec![b, d] }, &[max])
        })())
    }
    fn flops(&self, args: &[Type], _: &Type) -> Dim {
        args[0].numel()
    }
}
