//! Rounding to what a few bits and a shared scale can say.
use super::*;
op! {
    /// `x` rounded to the nearest that `element` says with a scale (and a zero point) that `group` consecutive elements of the
    /// last axis share, from the least to the largest of them: see [`Grid`]. What quantized weights (scales of f16) and
    /// activations (of f32) stand for; kernels store the codes (Jacob et al. 2018, arXiv 1712.05877). In f32, ties to even: with
    /// scales of f32 an integer is `x * (127 / max |x|)` (or 7 of 4 bits, ..), with narrower ones `x / scale`, rounded.
    FakeQuantize = "fake_quantize" {
        /// What codes are; with scales of f32 integers without zero points, as activations are.
        element: Element,
        /// A multiple of 32 that divides the last axis, or with scales of f32 all of it.
        group: i64,
        /// Element type of the scales.
        scale: DType,
    }
}
impl OpDef for FakeQuantize {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x] = arity(Self::NAME, args)?;
        let whole = self.scale == DType::F32
            && self.group > 0
            && x.last().known() == Some(self.group)
            && !x.shape.is_empty();
        if x.dtype != DType::F32 || !whole && dequantize::groups_of(x, self.group).is_none() {
            let why = format!(
                "wants f32{}, or with scales of f32 all of K",
                dequantize::wanted(self.group)
            );
            return Err(refuse(Self::NAME, why, args));
        }
        let around_zero = matches!(self.element, Element::Int { zero: false, .. });
        if !self.scale.is_float() || self.scale == DType::F32 && !around_zero {
            let why = format!(
                "wants scales of floats, of f32 for integers without zero points alone, not {} for {}",
                self.scale, self.element
            );
            return Err(refuse(Self::NAME, why, args));
        }
        Ok(x.clone())
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        let mut data = Vec::with_capacity(args[0].data.len());
        for group in args[0].data.chunks(self.group as usize) {
            // In f32, as the op says: a code next to a tie must not depend on who computes it.
            let x: Vec<f32> = group.iter().map(|x| *x as f32).collect();
            let grid = Grid::of(self.element, &x, self.scale);
            let peak = match grid.scale.is_nan() {
                true => grid.scale,
                false => x.iter().fold(0.0f32, |peak, x| peak.max(x.abs())),
            };
            let to_code = self.element.codes().1 as f32 / peak;
            let value = |x: f32| match self.scale {
                _ if to_code.is_infinite() => 0.0,
                DType::F32 => grid.scale * (x * to_code).round_ties_even(),
                _ if grid.scale.is_nan() => grid.scale,
                _ => grid.value(grid.code(x)),
            };
            data.extend(x.iter().map(|x| f64::from(value(*x))));
        }
        Ok(Tensor::new(out, data))
    }
    fn flops(&self, _: &[Type], out: &Type) -> Dim {
        out.numel() * 4.into()
    }
}
