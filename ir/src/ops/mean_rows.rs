//! Mean over intervals of rows: pooling.
use super::*;
op! {
    /// `mean_rows(x: [T, D], lo: i32[B], hi: i32[B]): [B, D]`, the mean of rows `lo[b]..hi[b]`, which must not be
    /// empty.
    MeanRows = "mean_rows"
}
impl OpDef for MeanRows {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        pooled(Self::NAME, args)
    }
    /// Attention whose scores are all zero weighs every row equally.
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, lo, hi] = *args else { return None };
        Some((|| {
            let queries = g.add(Gather, &[x, lo])?;
            let shape = [1.into(), g.ty(x).last()];
            attended(g, queries, [x, lo, hi], shape, 0.0)
        })())
    }
    fn flops(&self, args: &[Type], _: &Type) -> Dim {
        args[0].numel()
    }
}

/// The type of a value for each column of `x: [T, D]` and each of the intervals `lo, hi: i32[B]`.
pub(super) fn pooled(op: &'static str, args: &[Type]) -> Result<Type, TypeError> {
    let [x, lo, hi] = arity(op, args)?;
    let ([_, d], [b]) = (&x.shape[..], &lo.shape[..]) else {
        return Err(refuse(op, "wants x: [T, D] and lo, hi: i32[B]", args));
    };
    if lo != hi || lo.dtype != DType::I32 || !x.dtype.is_float() {
        return Err(refuse(op, "wants x: [T, D] and lo, hi: i32[B]", args));
    }
    Ok(Type::new(x.dtype, [b.clone(), d.clone()]))
}

/// What `queries: [B, D]` find in rows `lo[b]..hi[b]` of `x`, by attention of `heads` heads of `dim` each.
pub(super) fn attended(
    g: &mut Graph,
    queries: Value,
    [x, lo, hi]: [Value; 3],
    [heads, dim]: [Dim; 2],
    scale: f64,
) -> Result<Value, TypeError> {
    let mut split = |x: Value| {
        let shape = vec![g.ty(x).rows(), heads.clone(), dim.clone()];
        g.add(Reshape { shape }, &[x])
    };
    let (q, rows) = (split(queries)?, split(x)?);
    let (scale, softcap) = (scale.into(), 0.0.into());
    let found = g.add(Attention { scale, softcap }, &[q, rows, rows, lo, hi])?;
    let shape = g.ty(queries).shape.clone();
    g.add(Reshape { shape }, &[found])
}
