//! Product with a weight as checkpoints store it.
use super::*;
op! {
    /// `linear(x: [.., K], w: [N, K]): [.., N]`, `x` times `w` transposed. The bias is an ordinary `add` after it.
    Linear = "linear"
}
impl OpDef for Linear {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x, w] = arity(Self::NAME, args)?;
        let [n, k] = &w.shape[..] else {
            return Err(refuse(Self::NAME, "wants a weight of rank 2", args));
        };
        let turned = Type::new(w.dtype, [k.clone(), n.clone()]);
        MatMul
            .infer(&[x.clone(), turned])
            .map_err(|e| refuse(Self::NAME, e.why, args))
    }
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, w] = *args else { return None };
        Some((|| {
            let turned = g.add(
                Transpose {
                    perm: vec![1.into(), 0.into()],
                },
                &[w],
            )?;
            g.add(MatMul, &[x, turned])
        })())
    }
    fn flops(&self, args: &[Type], out: &Type) -> Dim {
        out.numel() * args[0].last() * 2.into()
    }
}
