//! The value that a kernel holds in registers while its body is applied to it.
use super::*;
op! {
    /// Stands, in the body of a [`Map`] or [`Gemm`], for the value the kernel loaded or accumulated.
    Acc = "acc" {
        /// Which accumulator of the kernel.
        index: i64,
        /// Its type.
        ty: Type,
    }
}
impl OpDef for Acc {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [] = arity(Self::NAME, args)?;
        sized(Self::NAME, self.ty.clone(), args)
    }
    fn flops(&self, _: &[Type], _: &Type) -> Dim {
        0.into()
    }
}
