//! A scalar literal.
use super::*;
op! {
    /// A scalar of the given element type.
    Const = "const" {
        /// The number, exactly representable in `dtype` or rounded to it.
        value: Float,
        /// Element type.
        dtype: DType,
    }
}
impl OpDef for Const {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [] = arity(Self::NAME, args)?;
        Ok(Type::scalar(self.dtype))
    }
    fn eval(&self, _: &[Tensor], _: &[usize]) -> Result<Tensor, EvalError> {
        Ok(Tensor::scalar(self.value.get()))
    }
    fn flops(&self, _: &[Type], _: &Type) -> Dim {
        0.into()
    }
}
