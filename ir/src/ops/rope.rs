//! Rotary position embedding (arXiv 2104.09864), half-split form.
use super::*;
op! {
    /// `rope(x: [T, H, D], cos: [T, 1, R], sin: [T, 1, R])` rotates the pairs `(x[i], x[i + R])`, `i < R`, of each
    /// head by the angles whose cosines and sines are given; dims from `2 R` on pass (arXiv 2104.09864).
    Rope = "rope"
}
impl OpDef for Rope {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x, cos, sin] = arity(Self::NAME, args)?;
        let ([t, _, d], [t2, one, r]) = (&x.shape[..], &cos.shape[..]) else {
            return Err(refuse(
                Self::NAME,
                "wants x: [T, H, D] and cos, sin: [T, 1, R]",
                args,
            ));
        };
        let fits = d.known().zip(r.known()).is_some_and(|(d, r)| r <= d / 2);
        if cos != sin
            || x.dtype != cos.dtype
            || !x.dtype.is_float()
            || t != t2
            || one.known() != Some(1)
            || !fits
        {
            return Err(refuse(
                Self::NAME,
                "wants x: [T, H, D] and cos, sin: [T, 1, R] with 2 R <= D",
                args,
            ));
        }
        Ok(x.clone())
    }
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, cos, sin] = *args else { return None };
        Some((|| {
            let r = g.ty(cos).last().known().unwrap_or(0);
            let d = g.ty(x).last().known().unwrap_or(0);
            let part = |start, end| Slice {
                axis: 2,
                start,
                end,
            };
            let a = g.add(part(0, r), &[x])?;
            let b = g.add(part(r, 2 * r), &[x])?;
            let (ac, bs) = (g.add(Mul, &[a, cos])?, g.add(Mul, &[b, sin])?);
            let (bc, as_) = (g.add(Mul, &[b, cos])?, g.add(Mul, &[a, sin])?);
            let mut parts = vec![g.add(Sub, &[ac, bs])?, g.add(Add, &[bc, as_])?];
            if 2 * r < d {
                parts.push(g.add(part(2 * r, d), &[x])?);
            }
            g.add(Concat { axis: 2 }, &parts)
        })())
    }
    fn flops(&self, _: &[Type], out: &Type) -> Dim {
        out.numel() * 3.into()
    }
}
