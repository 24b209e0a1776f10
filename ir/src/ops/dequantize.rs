//! What integers with scales stand for.
use super::*;
op! {
    /// `codes` i8[.., K] times `scales` [.., K / group]: each scale belongs to `group` consecutive codes. f32[.., K]. How a
    /// weight is given whose integers were chosen, by whatever method: they are stored as they are, where
    /// [`FakeQuantize`] computes its own (ONNX's DequantizeLinear, blocked, with zero points of zero).
    Dequantize = "dequantize" {
        /// 8 (codes up to 127) or 4 (up to 7); others are refused where the weight is packed.
        bits: i64,
        /// A multiple of 32 that divides the last axis.
        group: i64,
    }
}
impl OpDef for Dequantize {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [codes, scales] = arity(Self::NAME, args)?;
        let mut grouped = codes.shape.clone();
        let fits = |k: i64| self.group > 0 && self.group % 32 == 0 && k % self.group == 0;
        let groups = match codes.last().known().filter(|k| fits(*k)) {
            Some(k) if !codes.shape.is_empty() => k / self.group,
            _ => {
                let why = format!(
                    "wants i8[.., K] with K a multiple of group {}, which is a multiple of 32",
                    self.group
                );
                return Err(refuse(Self::NAME, why, args));
            }
        };
        if let Some(last) = grouped.last_mut() {
            *last = groups.into();
        }
        if codes.dtype != DType::I8 || !scales.dtype.is_float() || scales.shape != grouped {
            let why = format!("wants i8[.., K] and scales of floats [.., {groups}]");
            return Err(refuse(Self::NAME, why, args));
        }
        if ![8, 4].contains(&self.bits) {
            let why = format!("wants 8 or 4 bits, not {}", self.bits);
            return Err(refuse(Self::NAME, why, args));
        }
        Ok(Type {
            dtype: DType::F32,
            shape: codes.shape.clone(),
        })
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        let groups = args[0].data.chunks(self.group as usize);
        let values = groups.zip(&args[1].data);
        let data = values.flat_map(|(codes, scale)| {
            let of = |code: &f64| DType::F32.round(code * scale);
            codes.iter().map(of).collect::<Vec<_>>()
        });
        Ok(Tensor::new(out, data.collect()))
    }
}
