//! `0, 1, ..., n - 1`.
use super::*;
op! {
    /// `iota(n): i32[n]`, the integers from zero.
    Iota = "iota" {
        /// One dim: how many.
        n: Vec<Dim>,
    }
}
impl OpDef for Iota {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [] = arity(Self::NAME, args)?;
        match &self.n[..] {
            [n] => sized(Self::NAME, Type::new(DType::I32, [n.clone()]), args),
            _ => Err(refuse(Self::NAME, "wants one dim", args)),
        }
    }
    fn eval(&self, _: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        Ok(Tensor::from_fn(out, |i| i[0] as f64))
    }
}
