//! Where the largest elements of a row are.
use super::*;
op! {
    /// `top_k_ids(x: f32[.., E], index: f32[E]): i32[.., k]`: the columns of the `k` largest elements of each row, which
    /// are not negative, the largest first, of equal ones the first. `index` is `0, 1, ..., E - 1`.
    TopKIds = "top_k_ids" {
        /// How many.
        k: i64,
    }
}
impl OpDef for TopKIds {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let values = top_k_type(Self::NAME, self.k, args)?;
        Ok(Type {
            dtype: DType::I32,
            ..values
        })
    }
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, index] = *args else { return None };
        Some((|| {
            let [_, ids] = top_k(g, x, index, self.k)?;
            g.add(Cast { to: DType::I32 }, &[ids])
        })())
    }
    fn flops(&self, args: &[Type], _: &Type) -> Dim {
        args[0].numel() * (6 * self.k).into()
    }
}

/// The type of the `k` largest elements.
pub(super) fn top_k_type(op: &'static str, k: i64, args: &[Type]) -> Result<Type, TypeError> {
    let [x, index] = arity(op, args)?;
    let wanted = "wants x: f32[.., E] and index: f32[E], E at least k, k at least 1";
    let columns = rms_norm::row_size(op, args)?;
    if x.dtype != DType::F32
        || *index != Type::new(DType::F32, [x.last()])
        || !(1..=columns).contains(&k)
    {
        return Err(refuse(op, wanted, args));
    }
    let mut out = x.clone();
    if let Some(last) = out.shape.last_mut() {
        *last = k.into();
    }
    Ok(out)
}

/// The `k` largest elements of each row and their columns: the maximum, its first column, and again without that.
pub(super) fn top_k(
    g: &mut Graph,
    x: Value,
    index: Value,
    k: i64,
) -> Result<[Value; 2], TypeError> {
    let columns = rms_norm::row_size(TopKIds::NAME, &[g.ty(x).clone()])?;
    let axis = g.ty(x).shape.len() as i64 - 1;
    let minus = g.constant_like(x, -1.0);
    let nowhere = g.constant_like(x, -(columns as f64));
    let backwards = g.add(Mul, &[index, minus])?;
    let (mut rest, mut values, mut ids) = (x, vec![], vec![]);
    for _ in 0..k {
        let most = g.add(Amax, &[rest])?;
        let less = g.add(Lt, &[rest, most])?;
        let places = g.add(Select, &[less, nowhere, backwards])?;
        let place = g.add(Amax, &[places])?;
        let id = g.add(Mul, &[place, minus])?;
        values.push(most);
        ids.push(id);
        let before = g.add(Lt, &[index, id])?;
        let behind = g.add(Lt, &[id, index])?;
        let other = g.add(Select, &[behind, rest, minus])?;
        rest = g.add(Select, &[before, rest, other])?;
    }
    let joined = Concat { axis };
    Ok([g.add(joined.clone(), &values)?, g.add(joined, &ids)?])
}
