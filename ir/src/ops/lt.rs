//! `a < b`, elementwise, broadcasting.
use super::*;
op! {
    /// `a < b` of two arguments of one element type: bool, broadcasting.
    Lt = "lt"
}
impl OpDef for Lt {
    const CLASS: Class = Class::Elementwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let compared = broadcast(Self::NAME, args, 2)?;
        Ok(Type {
            dtype: DType::Bool,
            ..compared
        })
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        Ok(Tensor::zip(args, out, |x| f64::from(u8::from(x[0] < x[1]))))
    }
}
