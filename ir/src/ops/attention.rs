//! Scaled dot-product attention over intervals of key rows.
use super::*;
op! {
    /// `attention(q: [T, H, D], k: [R, G, D], v: [R, G, D], lo: i32[T], hi: i32[T]): [T, H, D]` with `G` dividing
    /// `H`: query row `t` attends to key rows `lo[t]..hi[t]`, query head `h` to key head `h / (H / G)`
    /// (arXiv 1706.03762, 2305.13245).
    ///
    /// Intervals say every mask that serving needs: a token's own sequence in a packed batch (encoders), the rows of
    /// its cache up to itself (decoders), the last `w` of them (sliding window). They must not be empty.
    ///
    /// Keys and values may be narrower floats than f32 queries, as a cache holds them: they are widened, exactly.
    Attention = "attention" {
        /// Multiplies the scores.
        scale: Float,
        /// Scores become `cap * tanh(score / cap)` where positive; 0 for none.
        softcap: Float,
    }
}
impl OpDef for Attention {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [q, k, v, lo, hi] = arity(Self::NAME, args)?;
        let wrong = |why: &str| Err(refuse(Self::NAME, why, args));
        let ([t, h, d], [_, g, kd]) = (&q.shape[..], &k.shape[..]) else {
            return wrong("wants q: [T, H, D] and k: [R, G, D]");
        };
        let grouped = h
            .known()
            .zip(g.known())
            .is_some_and(|(h, g)| g > 0 && h % g == 0);
        let widens = q.dtype == DType::F32 && k.dtype.is_float();
        if !grouped || d != kd || k != v || !(q.dtype == k.dtype || widens) || !q.dtype.is_float() {
            return wrong(
                "wants q: [T, H, D], k and v: [R, G, D], G dividing H, of one float type or of one that q's holds",
            );
        }
        if lo != hi || *lo != Type::new(DType::I32, [t.clone()]) {
            return wrong("wants lo and hi: i32[T]");
        }
        Ok(q.clone())
    }
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [q, k, v, lo, hi] = *args else {
            return None;
        };
        Some(self.expand_into(g, q, k, v, lo, hi))
    }
    fn flops(&self, args: &[Type], out: &Type) -> Dim {
        out.numel() * args[1].shape[0].clone() * 4.into()
    }
}

impl Attention {
    fn expand_into(
        &self,
        g: &mut Graph,
        q: Value,
        k: Value,
        v: Value,
        lo: Value,
        hi: Value,
    ) -> Result<Value, TypeError> {
        let [t, h, d] = of_rank_3(g.ty(q))?;
        let [r, heads, _] = of_rank_3(g.ty(k))?;
        let group = h
            .div_exact(&heads)
            .ok_or_else(|| refuse(Self::NAME, "heads do not divide", &[]))?;
        let reshape = |shape: &[&Dim]| Reshape {
            shape: shape.iter().copied().cloned().collect(),
        };
        let turn = |perm: &[usize]| Transpose {
            perm: perm.iter().map(|p| (*p).into()).collect(),
        };
        // Heads that share keys have an axis of their own; where each has its own keys there is none.
        let shared = group.known() != Some(1);
        let rows = t.clone() * group.clone();
        let one = Dim::from(1);
        let turned = if shared {
            let q = g.add(reshape(&[&t, &heads, &group, &d]), &[q])?;
            let q = g.add(turn(&[1, 0, 2, 3]), &[q])?;
            g.add(reshape(&[&heads, &rows, &d]), &[q])?
        } else {
            g.add(turn(&[1, 0, 2]), &[q])?
        };
        let (to, narrow) = (g.ty(q).dtype, g.ty(q).dtype != g.ty(k).dtype);
        let mut turned_wide = |x: Value, perm: &[usize]| {
            let x = if narrow { g.add(Cast { to }, &[x])? } else { x };
            g.add(turn(perm), &[x])
        };
        let k = turned_wide(k, &[1, 2, 0])?;
        let v = turned_wide(v, &[1, 0, 2])?;
        let mut scores = g.add(MatMul, &[turned, k])?;
        let mut row_number = vec![&t, &one];
        if shared {
            scores = g.add(reshape(&[&heads, &t, &group, &r]), &[scores])?;
            row_number.push(&one);
        }
        let scale = g.constant_like(scores, self.scale.get());
        let mut scores = g.add(Mul, &[scores, scale])?;
        if self.softcap.get() > 0.0 {
            let cap = g.constant_like(scores, self.softcap.get());
            let bent = g.add(Div, &[scores, cap])?;
            let bent = g.add(Tanh, &[bent])?;
            scores = g.add(Mul, &[bent, cap])?;
        }
        let row = g.add(Iota { n: vec![r.clone()] }, &[])?;
        let lo = g.add(reshape(&row_number), &[lo])?;
        let hi = g.add(reshape(&row_number), &[hi])?;
        let masked = g.constant_like(scores, -1e30);
        let before = g.add(Lt, &[row, lo])?;
        let within = g.add(Lt, &[row, hi])?;
        let scores = g.add(Select, &[before, masked, scores])?;
        let scores = g.add(Select, &[within, scores, masked])?;
        let mut weights = g.add(Softmax, &[scores])?;
        if !shared {
            let out = g.add(MatMul, &[weights, v])?;
            return g.add(turn(&[1, 0, 2]), &[out]);
        }
        weights = g.add(reshape(&[&heads, &rows, &r]), &[weights])?;
        let out = g.add(MatMul, &[weights, v])?;
        let out = g.add(reshape(&[&heads, &t, &group, &d]), &[out])?;
        let out = g.add(turn(&[1, 0, 2, 3]), &[out])?;
        g.add(reshape(&[&t, &h, &d]), &[out])
    }
}

/// A shape of rank 3, taken apart.
fn of_rank_3(ty: &Type) -> Result<[Dim; 3], TypeError> {
    <[Dim; 3]>::try_from(ty.shape.clone()).map_err(|_| {
        refuse(
            Attention::NAME,
            "wants q and k of rank 3",
            std::slice::from_ref(ty),
        )
    })
}
