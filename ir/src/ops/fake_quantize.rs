//! Rounding to what a few bits and a shared scale can say.
use super::*;
op! {
    /// `x` rounded to integers of `bits` bits (8: up to 127, 4: up to 7) times a scale that `group` consecutive elements of
    /// the last axis share: `max |x| / 127` (or 7). What quantized weights (scales of f16) and activations (of f32) stand
    /// for; kernels store the integers (Jacob et al. 2018, arXiv 1712.05877, symmetric). In f32, ties to even: with scales
    /// of f32 an integer is `x * (127 / max |x|)`, with narrower ones `x / scale`, rounded.
    FakeQuantize = "fake_quantize" {
        /// 8 or 4.
        bits: i64,
        /// A multiple of 32 that divides the last axis, or all of it.
        group: i64,
        /// Element type of the scales.
        scale: DType,
    }
}
impl OpDef for FakeQuantize {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [x] = arity(Self::NAME, args)?;
        let fits = |n: i64| {
            self.group > 0 && (self.group == n || self.group % 32 == 0 && n % self.group == 0)
        };
        if x.dtype != DType::F32 || !x.last().known().is_some_and(fits) || x.shape.is_empty() {
            let why = format!(
                "wants f32[.., K] with K a multiple of group {}, which is a multiple of 32 or K",
                self.group
            );
            return Err(refuse(Self::NAME, why, args));
        }
        if ![8, 4].contains(&self.bits) || !self.scale.is_float() {
            let why = format!(
                "wants 8 or 4 bits and scales of floats, not {} and {}",
                self.bits, self.scale
            );
            return Err(refuse(Self::NAME, why, args));
        }
        Ok(x.clone())
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        let most = if self.bits == 8 { 127.0f32 } else { 7.0 };
        let mut data = Vec::with_capacity(args[0].data.len());
        for group in args[0].data.chunks(self.group as usize) {
            // In f32, as the op says: a code next to a tie must not depend on who computes it.
            let x: Vec<f32> = group.iter().map(|x| *x as f32).collect();
            let peak = x
                .iter()
                .fold(0.0f32, |peak, x| match peak.is_nan() || x.is_nan() {
                    true => f32::NAN,
                    false => peak.max(x.abs()),
                });
            let to_code = most / peak;
            let scale = match to_code.is_infinite() {
                true => 0.0,
                false => self.scale.round((peak / most).into()) as f32,
            };
            let code = |x: f32| match self.scale {
                DType::F32 => (x * to_code).round_ties_even(),
                _ => (x / scale).round_ties_even().clamp(-most, most),
            };
            data.extend(x.iter().map(|x| match scale == 0.0 {
                true => 0.0,
                false => f64::from(scale * code(*x)),
            }));
        }
        Ok(Tensor::new(out, data))
    }
    fn flops(&self, _: &[Type], out: &Type) -> Dim {
        out.numel() * 4.into()
    }
}
