//! The same elements in row-major order under another shape.
use super::*;
op! {
    /// The same elements, row-major, under another shape.
    Reshape = "reshape" {
        /// The new shape, of as many elements.
        shape: Vec<Dim>,
    }
}
impl OpDef for Reshape {
    const CLASS: Class = Class::View;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x] = arity(Self::NAME, args)?;
        let out = Type {
            dtype: x.dtype,
            shape: self.shape.clone(),
        };
        if out.numel() != x.numel() {
            return Err(refuse(
                Self::NAME,
                format!("{out} has another number of elements"),
                args,
            ));
        }
        sized(Self::NAME, out, args)
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        Ok(Tensor::new(out, args[0].data.clone()))
    }
    fn flops(&self, _: &[Type], _: &Type) -> Dim {
        0.into()
    }
}
