//! A kernel over rows: load, apply a body, store.
use super::*;
op! {
    /// `map(x, body)`: `body` with `acc 0` standing for `x`; elementwise and row-wise ops in one pass over rows.
    Map = "map"
}
impl OpDef for Map {
    const BINDS: bool = true;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [_, body] = arity(Self::NAME, args)?;
        Ok(body.clone())
    }
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, body] = *args else { return None };
        Some(g.substitute(body, &[x]))
    }
    fn flops(&self, _: &[Type], _: &Type) -> Dim {
        0.into()
    }
}
