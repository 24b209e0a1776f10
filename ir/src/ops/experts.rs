//! Feed-forward layers of which each token picks a few: mixtures of experts.
use super::*;
op! {
    /// `experts(x: [T, H], ids: i32[T, k], weights: [T, k], gate: [E, I, H], up: [E, I, H], down: [E, H, I]): [T, H]`: the
    /// sum over a token's `k` experts `e` of its weight times `down[e] (silu(gate[e] x) * up[e] x)` (arXiv 1701.06538,
    /// 2401.04088). Each id is in `0..E`.
    Experts = "experts"
}
impl OpDef for Experts {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x, ids, weights, gate, up, down] = arity(Self::NAME, args)?;
        let wanted = "wants x: [T, H], ids: i32[T, k], weights: [T, k], gate and up: [E, I, H], down: [E, H, I] of one \
                      float type";
        let ([t, h], [t2, k], [e, i, h2]) = (&x.shape[..], &ids.shape[..], &gate.shape[..]) else {
            return Err(refuse(Self::NAME, wanted, args));
        };
        let dtype = x.dtype;
        let fits = dtype.is_float()
            && (t, h) == (t2, h2)
            && ids.dtype == DType::I32
            && *weights == Type::new(dtype, [t.clone(), k.clone()])
            && [gate, up]
                .iter()
                .all(|w| w.dtype == dtype && w.shape == gate.shape)
            && *down == Type::new(dtype, [e.clone(), h.clone(), i.clone()]);
        let known = [h, k, i].iter().all(|d| d.known().is_some_and(|n| n > 0));
        if !fits || !known {
            return Err(refuse(Self::NAME, wanted, args));
        }
        Ok(x.clone())
    }
    /// Rows of the experts' weights by index: each token reads those of its own experts, and no others.
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, ids, weights, gate, up, down] = *args else {
            return None;
        };
        Some((|| {
            let (t, h) = (g.ty(x).shape[0].clone(), g.ty(x).last());
            let (k, i) = (g.ty(ids).last(), g.ty(gate).shape[1].clone());
            let pairs = t.clone() * k.clone();
            let shaped = |shape: [&Dim; 3]| Reshape {
                shape: shape.into_iter().cloned().collect(),
            };
            let one = Dim::from(1);
            let flat = Reshape {
                shape: vec![pairs.clone()],
            };
            let ids = g.add(flat, &[ids])?;
            let copies = vec![x; k.known().unwrap_or(1) as usize];
            let x = g.add(Concat { axis: 1 }, &copies)?;
            let x = g.add(shaped([&pairs, &one, &h]), &[x])?;
            // Row `e` of a product of pairs `[P, 1, n]` with weights `[E, m, n]`, as `[P, 1, m]`.
            let product = |g: &mut Graph, x, w, m: &Dim| {
                let rows = g.add(Gather, &[w, ids])?;
                let products = g.add(Mul, &[rows, x])?;
                let sums = g.add(Sum, &[products])?;
                g.add(shaped([&pairs, &one, m]), &[sums])
            };
            let gate = product(g, x, gate, &i)?;
            let up = product(g, x, up, &i)?;
            let inner = g.add(SwiGlu, &[gate, up])?;
            let found = product(g, inner, down, &h)?;
            let found = g.add(shaped([&t, &k, &h]), &[found])?;
            let perm = vec![0.into(), 2.into(), 1.into()];
            let found = g.add(Transpose { perm }, &[found])?;
            let weights = g.add(shaped([&t, &one, &k]), &[weights])?;
            let weighted = g.add(Mul, &[found, weights])?;
            let sum = g.add(Sum, &[weighted])?;
            g.add(Reshape { shape: vec![t, h] }, &[sum])
        })())
    }
    fn flops(&self, args: &[Type], out: &Type) -> Dim {
        out.numel() * args[1].last() * args[3].shape[1].clone() * 6.into()
    }
}
