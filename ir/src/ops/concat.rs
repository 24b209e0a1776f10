//! Arguments one after another along one axis.
use super::*;
op! {
    /// One or more arguments, equal but for one axis, one after another along it.
    Concat = "concat" {
        /// Which axis.
        axis: i64,
    }
}
impl OpDef for Concat {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let axis = axis(Self::NAME, self.axis, args)?;
        let mut out = args[0].clone();
        for a in &args[1..] {
            let sum = match a.shape.get(axis) {
                Some(d) => out.shape[axis].clone() + d.clone(),
                None => return Err(refuse(Self::NAME, "ranks differ", args)),
            };
            out.shape[axis] = a.shape[axis].clone();
            if out != *a {
                return Err(refuse(
                    Self::NAME,
                    format!("arguments differ beyond axis {axis}"),
                    args,
                ));
            }
            out.shape[axis] = sum;
        }
        Ok(out)
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        let axis = self.axis as usize;
        let mut source = vec![0; out.len()];
        Ok(Tensor::from_fn(out, |index| {
            source.copy_from_slice(index);
            let mut which = 0;
            while source[axis] >= args[which].shape[axis] {
                source[axis] -= args[which].shape[axis];
                which += 1;
            }
            args[which].data[args[which].offset(&source)]
        }))
    }
    fn flops(&self, _: &[Type], _: &Type) -> Dim {
        0.into()
    }
}
