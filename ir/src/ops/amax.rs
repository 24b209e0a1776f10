//! Largest of the last axis, kept as size 1.
use super::*;
op! {
    /// Largest of the last axis, kept as size 1.
    Amax = "amax"
}
impl OpDef for Amax {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let mut out = numbers(Self::NAME, args, 1)?;
        match out.shape.last_mut() {
            Some(last) => *last = 1.into(),
            None => return Err(refuse(Self::NAME, "wants rank 1 or more", args)),
        }
        Ok(out)
    }
    fn eval(&self, args: &[Tensor], _: &[usize]) -> Result<Tensor, EvalError> {
        Ok(args[0].reduce(|row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max)))
    }
    fn flops(&self, args: &[Type], _: &Type) -> Dim {
        args[0].numel()
    }
}
