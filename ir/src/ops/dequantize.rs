//! What codes with scales stand for.
use super::*;
op! {
    /// `codes` [.., K], i8 (or i16 of 16 bits), with `scales` [.., K / group] and, where the element has them, `zeros` i8 of the
    /// same shape: each scale and zero point belongs to `group` consecutive codes. f32[.., K]; see [`Element`]. How a weight is
    /// given whose codes were chosen, by whatever method: they are stored as they are, where [`FakeQuantize`] computes its own
    /// (ONNX's DequantizeLinear, blocked).
    Dequantize = "dequantize" {
        /// What codes are. Ones that it does not say are refused where the weight is packed.
        element: Element,
        /// A multiple of 32 that divides the last axis.
        group: i64,
    }
}
impl OpDef for Dequantize {
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let (codes, scales, zeros) = match (args, self.element.zero()) {
            ([codes, scales], false) => (codes, scales, None),
            ([codes, scales, zeros], true) => (codes, scales, Some(zeros)),
            (_, zero) => {
                let why = format!(
                    "wants {} arguments for {}, has {}",
                    2 + usize::from(zero),
                    self.element,
                    args.len()
                );
                return Err(refuse(Self::NAME, why, args));
            }
        };
        let held = self.element.storage();
        let mut grouped = codes.shape.clone();
        let groups = groups_of(codes, self.group).ok_or_else(|| {
            let why = format!("wants {held}{}", wanted(self.group));
            refuse(Self::NAME, why, args)
        })?;
        if let Some(last) = grouped.last_mut() {
            *last = groups.into();
        }
        let zero = |z: &Type| z.dtype == DType::I8 && z.shape == grouped;
        if codes.dtype != held
            || !scales.dtype.is_float()
            || scales.shape != grouped
            || !zeros.is_none_or(zero)
        {
            let why = format!(
                "wants {held}[.., K], scales of floats [.., {groups}], and zero points of i8 as many"
            );
            return Err(refuse(Self::NAME, why, args));
        }
        Ok(Type {
            dtype: DType::F32,
            shape: codes.shape.clone(),
        })
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        let groups = args[0].data.chunks(self.group as usize).enumerate();
        let data = groups.flat_map(|(g, codes)| {
            let zero = args.get(2).map_or(0, |zeros| zeros.data[g] as i32);
            let scale = args[1].data[g];
            let of = |code: &f64| {
                let number = f64::from(self.element.number(*code as i32, zero));
                DType::F32.round(number * scale)
            };
            codes.iter().map(of).collect::<Vec<_>>()
        });
        Ok(Tensor::new(out, data.collect()))
    }
}

/// Groups of a row, where their size is one that the type's last axis can be cut into.
pub(super) fn groups_of(ty: &Type, group: i64) -> Option<i64> {
    let fits = |k: &i64| group > 0 && group % 32 == 0 && k % group == 0;
    let k = ty.last().known().filter(fits)?;
    (!ty.shape.is_empty()).then_some(k / group)
}

/// What [`groups_of`] wants.
pub(super) fn wanted(group: i64) -> String {
    format!("[.., K] with K a multiple of group {group}, which is a multiple of 32")
}
