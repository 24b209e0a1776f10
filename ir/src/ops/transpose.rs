//! Axes in another order.
use super::*;
op! {
    /// Output axis `i` is argument axis `perm[i]`.
    Transpose = "transpose" {
        /// A permutation of the axes.
        perm: Vec<Dim>,
    }
}
impl Transpose {
    /// The permutation as indices; `None` if it is none of `rank` axes.
    pub fn axes(&self, rank: usize) -> Option<Vec<usize>> {
        let axes: Vec<usize> = self.perm.iter().map(Dim::size).collect::<Option<_>>()?;
        let mut sorted = axes.clone();
        sorted.sort_unstable();
        sorted.iter().copied().eq(0..rank).then_some(axes)
    }
}
impl OpDef for Transpose {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x] = arity(Self::NAME, args)?;
        let axes = self.axes(x.shape.len()).ok_or_else(|| {
            refuse(
                Self::NAME,
                format!("{:?} permutes other axes", self.perm),
                args,
            )
        })?;
        Ok(Type::new(x.dtype, axes.iter().map(|a| x.shape[*a].clone())))
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        let x = &args[0];
        let axes = self
            .axes(x.shape.len())
            .ok_or(EvalError::NotPrimitive { op: Self::NAME })?;
        let mut source = vec![0; axes.len()];
        Ok(Tensor::from_fn(out, |index| {
            for (i, a) in index.iter().zip(&axes) {
                source[*a] = *i;
            }
            x.data[x.offset(&source)]
        }))
    }
    fn flops(&self, _: &[Type], _: &Type) -> Dim {
        0.into()
    }
}
