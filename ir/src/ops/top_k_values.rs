//! The largest elements of a row.
use super::top_k_ids::{top_k, top_k_type};
use super::*;
op! {
    /// `top_k_values(x: f32[.., E], index: f32[E]): f32[.., k]`: the elements at [`TopKIds`].
    TopKValues = "top_k_values" {
        /// How many.
        k: i64,
    }
}
impl OpDef for TopKValues {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        top_k_type(Self::NAME, self.k, args)
    }
    fn expand(&self, g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
        let [x, index] = *args else { return None };
        Some(top_k(g, x, index, self.k).map(|[values, _]| values))
    }
    fn flops(&self, args: &[Type], _: &Type) -> Dim {
        args[0].numel() * (6 * self.k).into()
    }
}
