//! Maximum over intervals of rows: pooling.
use super::{
    mean_rows::{attended, pooled},
    *,
};

/// What a difference between elements is multiplied by before its exponential is taken.
const SHARPNESS: f64 = 1e20;

op! {
    /// `max_rows(x: f32[T, D], lo: i32[B], hi: i32[B]): [B, D]`, the largest elements of rows `lo[b]..hi[b]`, which must
    /// not be empty. Elements are at most 1e9 from zero, and those within 1e-11 of zero count as equal.
    MaxRows = "max_rows"
}
impl OpDef for MaxRows {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let ty = pooled(Self::NAME, args)?;
        match ty.dtype {
            DType::F32 => Ok(ty),
            _ => Err(refuse(Self::NAME, "wants x: f32[T, D]", args)),
        }
    }
    /// Attention of as many heads as there are columns, each of one dimension: scores so far apart that only the largest
    /// element has any weight.
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, lo, hi] = *args else { return None };
        Some((|| {
            // A query of ones, of the right shape: one more than nothing.
            let queries = g.add(Gather, &[x, lo])?;
            let queries = g.add(Sub, &[queries, queries])?;
            let one = g.constant_like(queries, 1.0);
            let queries = g.add(Add, &[queries, one])?;
            let shape = [g.ty(x).last(), 1.into()];
            attended(g, queries, [x, lo, hi], shape, SHARPNESS)
        })())
    }
    fn flops(&self, args: &[Type], _: &Type) -> Dim {
        args[0].numel()
    }
}
