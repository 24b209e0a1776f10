//! Elements in memory and what is computed with: loads widen, stores narrow, casts round. Narrow floats are computed
//! with as f32, rounded wherever their type says so.

use super::{
    function::{Function, trusted},
    lanes::int_type,
};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    condcodes::{FloatCC, IntCC},
    types::I32,
};
use ir::DType;

impl Function<'_> {
    /// Conversion between element types as computed with; narrow floats are rounded, see [`Self::round`].
    pub fn cast(&mut self, from: DType, to: DType, x: Value, lanes: u8) -> Value {
        let float = |to: DType| to.is_float();
        match (from, to) {
            (DType::Bool, DType::Bool) | (DType::I32, DType::I32) => x,
            (DType::Bool, to) => {
                let int = if lanes == 1 {
                    self.b.ins().uextend(I32, x)
                } else {
                    let one = self.int_constant(1, lanes);
                    self.b.ins().band(x, one)
                };
                self.cast(DType::I32, to, int, lanes)
            }
            (DType::I32, DType::Bool) => {
                let zero = self.int_constant(0, lanes);
                self.b.ins().icmp(IntCC::NotEqual, x, zero)
            }
            (DType::I32, to) => {
                let x = self.b.ins().fcvt_from_sint(Self::float_type(lanes), x);
                self.round(to, x, lanes)
            }
            (_, DType::Bool) => {
                let zero = self.constant(0.0, lanes);
                self.compare(FloatCC::NotEqual, x, zero)
            }
            (_, to) if float(to) => self.round(to, x, lanes),
            (_, _) => self.b.ins().fcvt_to_sint_sat(int_type(lanes), x),
        }
    }

    fn shift_right(&mut self, x: Value, by: i64) -> Value {
        let by = self.b.ins().iconst(I32, by);
        self.b.ins().ushr(x, by)
    }

    /// A positive number with the sign of an f32 given as bits.
    fn with_sign(&mut self, x: Value, of: Value, lanes: u8) -> Value {
        let sign = self.int_constant(i32::MIN, lanes);
        let sign = self.b.ins().band(of, sign);
        let magnitude = self.bits(int_type(lanes), x);
        let both = self.b.ins().bor(magnitude, sign);
        self.bits(Self::float_type(lanes), both)
    }

    /// An f32 rounded to what a narrower float holds, ties to even; an f32 still.
    pub fn round(&mut self, to: DType, x: Value, lanes: u8) -> Value {
        let dropped = match to {
            DType::BF16 => 16,
            DType::F16 => 13,
            _ => return x,
        };
        let bits = self.bits(int_type(lanes), x);
        let last = self.shift_right(bits, dropped);
        let one = self.int_constant(1, lanes);
        let last = self.b.ins().band(last, one);
        let half = self.int_constant((1 << (dropped - 1)) - 1, lanes);
        let sum = self.b.ins().iadd(bits, half);
        let sum = self.b.ins().iadd(sum, last);
        let mask = self.int_constant(-(1 << dropped), lanes);
        let rounded = self.b.ins().band(sum, mask);
        let rounded = self.bits(Self::float_type(lanes), rounded);
        if to == DType::BF16 {
            return rounded;
        }
        // Subnormal numbers are 2^-24 apart, as f32 is above 1/2; what rounds to 2^16 is infinite.
        let (magnitude, half) = (self.b.ins().fabs(x), self.constant(0.5, lanes));
        let small = self.b.ins().fadd(magnitude, half);
        let small = self.b.ins().fsub(small, half);
        let small = self.with_sign(small, bits, lanes);
        let (least, most) = (
            self.constant(6.103_515_6e-5, lanes),
            self.constant(65504.0, lanes),
        );
        let is_small = self.compare(FloatCC::LessThan, magnitude, least);
        let rounded = self.choose(is_small, small, rounded, lanes);
        let magnitude = self.b.ins().fabs(rounded);
        let infinite = self.constant(f32::INFINITY, lanes);
        let infinite = self.with_sign(infinite, bits, lanes);
        let is_large = self.compare(FloatCC::GreaterThan, magnitude, most);
        self.choose(is_large, infinite, rounded, lanes)
    }

    /// Stores what is computed with as elements of `dtype`, which holds it exactly, `stride` elements apart.
    pub fn store(
        &mut self,
        dtype: DType,
        x: Value,
        address: Value,
        shift: i64,
        stride: i64,
        lanes: u8,
    ) -> Result<(), String> {
        let at = i32::try_from(shift).map_err(|_| "row too long".to_string())?;
        let bits = match dtype {
            DType::F32 | DType::I32 if stride == 1 || lanes == 1 => {
                self.b.ins().store(trusted(), x, address, at);
                return Ok(());
            }
            DType::I8 | DType::I16 => return Err("no kernel writes codes of weights".into()),
            DType::Bool | DType::F32 | DType::I32 => x,
            DType::BF16 => {
                let bits = self.bits(int_type(lanes), x);
                self.shift_right(bits, 16)
            }
            DType::F16 => {
                // The other way around than in `load`; the shift leaves more than 16 bits of an infinite number.
                let bits = self.bits(int_type(lanes), x);
                let sign = self.int_constant(i32::MIN, lanes);
                let sign = self.b.ins().band(bits, sign);
                let sign = self.shift_right(sign, 16);
                let magnitude = self.b.ins().fabs(x);
                let rescale = self.constant(f32::from_bits((127 - 112) << 23), lanes);
                let magnitude = self.b.ins().fmul(magnitude, rescale);
                let magnitude = self.bits(int_type(lanes), magnitude);
                let magnitude = self.shift_right(magnitude, 13);
                let infinite = self.int_constant(0x7c00, lanes);
                let magnitude = self.extreme(false, magnitude, infinite, lanes);
                self.b.ins().bor(magnitude, sign)
            }
        };
        for lane in 0..lanes {
            let element = if lanes == 1 {
                bits
            } else {
                self.b.ins().extractlane(bits, lane)
            };
            let step = i32::try_from(stride * dtype.bytes() as i64);
            let step = step.map_err(|_| "columns too far apart".to_string())?;
            let at = at.saturating_add(i32::from(lane) * step);
            match dtype {
                DType::F32 | DType::I32 => {
                    self.b.ins().store(trusted(), element, address, at);
                }
                DType::Bool => {
                    let one = match lanes {
                        1 => element,
                        _ => self.b.ins().icmp_imm_u(IntCC::NotEqual, element, 0),
                    };
                    self.b.ins().store(trusted(), one, address, at);
                }
                _ => {
                    self.b.ins().istore16(trusted(), element, address, at);
                }
            }
        }
        Ok(())
    }

    /// Elements in memory as f32, i32 or truth values: widening is exact.
    pub fn load(
        &mut self,
        dtype: DType,
        address: Value,
        shift: i64,
        lanes: u8,
    ) -> Result<Value, String> {
        let shift = i32::try_from(shift).map_err(|_| "row too long".to_string())?;
        let float = Self::float_type(lanes);
        Ok(match dtype {
            DType::F32 => self.b.ins().load(float, trusted(), address, shift),
            DType::I32 => self
                .b
                .ins()
                .load(int_type(lanes), trusted(), address, shift),
            DType::BF16 => {
                let narrow = self.load_16(address, shift, lanes);
                let by = self.b.ins().iconst(I32, 16);
                let wide = self.b.ins().ishl(narrow, by);
                self.bits(float, wide)
            }
            DType::F16 => {
                // Exponent and mantissa in place, then rescaled by the difference of the biases: exact for every
                // finite number, subnormal ones included. Checkpoints hold no others.
                let narrow = self.load_16(address, shift, lanes);
                let (magnitude, sign) = (
                    self.int_constant(0x7fff, lanes),
                    self.int_constant(0x8000, lanes),
                );
                let magnitude = self.b.ins().band(narrow, magnitude);
                let sign = self.b.ins().band(narrow, sign);
                let (by_13, by_16) = (self.b.ins().iconst(I32, 13), self.b.ins().iconst(I32, 16));
                let magnitude = self.b.ins().ishl(magnitude, by_13);
                let sign = self.b.ins().ishl(sign, by_16);
                let magnitude = self.bits(float, magnitude);
                let rescale = self.constant(f32::from_bits((127 + 112) << 23), lanes);
                let magnitude = self.b.ins().fmul(magnitude, rescale);
                let magnitude = self.bits(int_type(lanes), magnitude);
                let both = self.b.ins().bor(magnitude, sign);
                self.bits(float, both)
            }
            DType::I8 | DType::I16 => {
                return Err("no kernel reads codes of weights by themselves".into());
            }
            DType::Bool if lanes == 1 => {
                let byte = self.b.ins().uload8(I32, trusted(), address, shift);
                self.b.ins().icmp_imm_u(IntCC::NotEqual, byte, 0)
            }
            DType::Bool => {
                let mut each = [address; 4];
                for (lane, x) in (0i64..).zip(&mut each) {
                    *x = self.load(dtype, address, i64::from(shift) + lane, 1)?;
                }
                self.join(each)
            }
        })
    }

    fn load_16(&mut self, address: Value, shift: i32, lanes: u8) -> Value {
        if lanes == 1 {
            self.b.ins().uload16(I32, trusted(), address, shift)
        } else {
            self.b.ins().uload16x4(trusted(), address, shift)
        }
    }
}
