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
    /// Attention whose scores are all zero weighs every row equally.
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, lo, hi] = *args else { return None };
        Some((|| {
            let (t, d) = (g.ty(x).shape[0].clone(), g.ty(x).shape[1].clone());
            let b = g.ty(lo).shape[0].clone();
            let head = |rows: &Dim| Reshape {
                shape: vec![rows.clone(), 1.into(), d.clone()],
            };
            let queries = g.add(Gather, &[x, lo])?;
            let queries = g.add(head(&b), &[queries])?;
            let rows = g.add(head(&t), &[x])?;
            let uniform = Attention {
                scale: 0.0.into(),
                softcap: 0.0.into(),
            };
            let mean = g.add(uniform, &[queries, rows, rows, lo, hi])?;
            g.add(Reshape { shape: vec![b, d] }, &[mean])
        })())
    }
    fn flops(&self, args: &[Type], _: &Type) -> Dim {
        args[0].numel()
    }
}
