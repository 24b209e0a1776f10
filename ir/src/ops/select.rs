//! `condition ? a : b`, elementwise, broadcasting.
use super::*;
op! {
    /// `select(condition: bool, a, b)`: `a` where the condition holds, else `b`; broadcasting.
    Select = "select"
}
impl OpDef for Select {
    const CLASS: Class = Class::Elementwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [condition, a, b] = arity(Self::NAME, args)?;
        if condition.dtype != DType::Bool || a.dtype != b.dtype {
            return Err(refuse(
                Self::NAME,
                "wants a bool and two values of one element type",
                args,
            ));
        }
        let shape = broadcast_shapes([&condition.shape, &a.shape, &b.shape])
            .ok_or_else(|| refuse(Self::NAME, "shapes do not broadcast", args))?;
        Ok(Type {
            dtype: a.dtype,
            shape,
        })
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        Ok(Tensor::zip(args, out, |x| {
            if x[0] != 0.0 { x[1] } else { x[2] }
        }))
    }
}
