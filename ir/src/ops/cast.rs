//! Conversion to another element type, rounding to nearest.
use super::*;
op! {
    /// The argument in another element type. Widening is exact; narrowing rounds to nearest, ties to even;
    /// float to integer truncates.
    Cast = "cast" {
        /// The element type of the result.
        to: DType,
    }
}
impl OpDef for Cast {
    const CLASS: Class = Class::Elementwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x] = arity(Self::NAME, args)?;
        if x.dtype.is_code() || self.to.is_code() {
            let why = "has no meaning for i8 and i16, which hold codes: dequantize them";
            return Err(refuse(Self::NAME, why, args));
        }
        Ok(Type {
            dtype: self.to,
            shape: x.shape.clone(),
        })
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        Ok(Tensor::zip(args, out, |x| self.to.round(x[0])))
    }
}
