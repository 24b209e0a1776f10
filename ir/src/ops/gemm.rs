//! A kernel of matrix products with a fused body (epilogue).
use super::*;
op! {
    /// `gemm(x: [.., K], w0: [K, N], .., body)`: `body` with `acc i` standing for `matmul(x, wi)`; the body is
    /// elementwise and runs while the tile is in cache. Several weights of one type share the pass over `x`.
    Gemm = "gemm"
}
impl OpDef for Gemm {
    const BINDS: bool = true;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x, weights @ .., body] = args else {
            return Err(refuse(Self::NAME, "wants x, weights and a body", args));
        };
        let Some(first) = weights.first() else {
            return Err(refuse(Self::NAME, "wants at least one weight", args));
        };
        if weights.iter().any(|w| w != first || w.shape.len() != 2) {
            return Err(refuse(Self::NAME, "wants weights of one type [K, N]", args));
        }
        let product = MatMul.infer(&[x.clone(), first.clone()])?;
        if body.shape != product.shape {
            return Err(refuse(
                Self::NAME,
                format!("wants a body of the product's shape {product}"),
                args,
            ));
        }
        Ok(body.clone())
    }
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, weights @ .., body] = args else {
            return None;
        };
        Some((|| {
            let products: Vec<Value> = weights
                .iter()
                .map(|w| g.add(MatMul, &[*x, *w]))
                .collect::<Result<_, _>>()?;
            g.substitute(*body, &products)
        })())
    }
    fn flops(&self, args: &[Type], out: &Type) -> Dim {
        let weights = args.len().saturating_sub(2);
        out.numel() * args[0].last() * (2 * weights).into()
    }
}
