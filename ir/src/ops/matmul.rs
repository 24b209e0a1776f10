//! Matrix product.
use super::*;
op! {
    /// `matmul(x: [.., K], w: [K, N]): [.., N]`, or with equal leading axes `[.., M, K] x [.., K, N]: [.., M, N]`.
    MatMul = "matmul"
}
impl OpDef for MatMul {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x, w] = arity(Self::NAME, args)?;
        let ([lead @ .., k], [batch @ .., inner, n]) = (&x.shape[..], &w.shape[..]) else {
            return Err(refuse(Self::NAME, "wants ranks of at least 1 and 2", args));
        };
        if !x.dtype.is_float() || x.dtype != w.dtype {
            return Err(refuse(
                Self::NAME,
                "wants two arguments of one float type",
                args,
            ));
        }
        if k != inner {
            return Err(refuse(
                Self::NAME,
                format!("inner dims {k} and {inner} differ"),
                args,
            ));
        }
        if !batch.is_empty() && (x.shape.len() != w.shape.len() || &lead[..batch.len()] != batch) {
            return Err(refuse(Self::NAME, "leading axes differ", args));
        }
        Ok(Type::new(x.dtype, lead.iter().chain([n]).cloned()))
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        let [x, w] = args else {
            return Err(EvalError::NotPrimitive { op: Self::NAME });
        };
        let [batch @ .., k, n] = &w.shape[..] else {
            return Err(EvalError::NotPrimitive { op: Self::NAME });
        };
        let batch: usize = batch.iter().product();
        let mut data = vec![0.0; out.iter().product()];
        let rows = data.len() / (n * batch).max(1);
        for (r, row) in data.chunks_mut((*n).max(1)).enumerate() {
            let w = &w.data[r / rows.max(1) * k * n..];
            for (p, xp) in x.data[r * k..][..*k].iter().enumerate() {
                for (o, wp) in row.iter_mut().zip(&w[p * n..]) {
                    *o += xp * wp;
                }
            }
        }
        Ok(Tensor::new(out, data))
    }
    fn flops(&self, args: &[Type], out: &Type) -> Dim {
        out.numel() * args[0].last() * 2.into()
    }
}
