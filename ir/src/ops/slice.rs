//! A contiguous part of one axis.
use super::*;
op! {
    /// Indices `start..end` of one axis.
    Slice = "slice" {
        /// Which axis.
        axis: i64,
        /// First index.
        start: i64,
        /// One past the last index.
        end: i64,
    }
}
impl OpDef for Slice {
    const CLASS: Class = Class::View;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x] = arity(Self::NAME, args)?;
        let axis = axis(Self::NAME, self.axis, args)?;
        let mut out = x.clone();
        match x.shape[axis].known() {
            Some(n) if 0 <= self.start && self.start <= self.end && self.end <= n => {
                out.shape[axis] = (self.end - self.start).into();
                Ok(out)
            }
            _ => Err(refuse(
                Self::NAME,
                format!("{}..{} is no part of axis {axis}", self.start, self.end),
                args,
            )),
        }
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        let mut source = vec![0; out.len()];
        Ok(Tensor::from_fn(out, |index| {
            source.copy_from_slice(index);
            source[self.axis as usize] += self.start as usize;
            args[0].data[args[0].offset(&source)]
        }))
    }
    fn flops(&self, _: &[Type], _: &Type) -> Dim {
        0.into()
    }
}
