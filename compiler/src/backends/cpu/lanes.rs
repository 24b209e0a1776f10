//! Arithmetic on one or four lanes. The same expressions at both widths, so that a row's tail computes what its
//! vectors do. Approximations state their source and error; the conformance suite measures them.

use super::function::Function;
use cranelift_codegen::ir::{
    ConstantData, Endianness, InstBuilder, MemFlagsData, Type, Value,
    condcodes::{FloatCC, IntCC},
    types::{F32, F32X4, I32, I32X4},
};
use ir::{DType, abi, ops::Op};
use std::mem::offset_of;

/// Lanes of a vector.
pub const WIDTH: i64 = 4;

/// The type of a scalar or vector of i32.
pub fn int_type(lanes: u8) -> Type {
    if lanes == 1 { I32 } else { I32X4 }
}

impl Function<'_> {
    /// An f32 constant in every lane.
    pub fn constant(&mut self, x: f32, lanes: u8) -> Value {
        if lanes == 1 {
            return self.b.ins().f32const(x);
        }
        let bytes: Vec<u8> = std::iter::repeat_n(x.to_le_bytes(), 4).flatten().collect();
        let data = self.b.func.dfg.constants.insert(ConstantData::from(bytes));
        self.b.ins().vconst(F32X4, data)
    }

    /// An i32 constant in every lane.
    pub fn int_constant(&mut self, x: i32, lanes: u8) -> Value {
        let scalar = self.b.ins().iconst(I32, i64::from(x));
        self.broadcast(scalar, lanes)
    }

    /// A scalar in every lane. A truth value becomes a mask, as comparisons of vectors give.
    pub fn broadcast(&mut self, x: Value, lanes: u8) -> Value {
        if lanes == 1 {
            return x;
        }
        match self.b.func.dfg.value_type(x) {
            F32 => self.b.ins().splat(F32X4, x),
            I32 => self.b.ins().splat(I32X4, x),
            _ => {
                let mask = self.b.ins().bmask(I32, x);
                self.b.ins().splat(I32X4, mask)
            }
        }
    }

    /// Four scalars side by side.
    pub fn join(&mut self, scalars: [Value; 4]) -> Value {
        let mut out = self.broadcast(scalars[0], 4);
        for (lane, x) in (1u8..).zip(&scalars[1..]) {
            let x = match self.b.func.dfg.value_type(*x) {
                F32 | I32 => *x,
                _ => self.b.ins().bmask(I32, *x),
            };
            out = self.b.ins().insertlane(out, x, lane);
        }
        out
    }

    /// The same bits as another type of the same width.
    pub fn bits(&mut self, to: Type, x: Value) -> Value {
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.b.ins().bitcast(to, flags, x)
    }

    /// `a * b + c`, fused where the target can.
    pub fn fma(&mut self, a: Value, b: Value, c: Value) -> Value {
        if self.fma {
            return self.b.ins().fma(a, b, c);
        }
        let product = self.b.ins().fmul(a, b);
        self.b.ins().fadd(product, c)
    }

    /// The value as something that comparisons do not read from memory themselves: Cranelift 0.135 gives `cmpps` an
    /// unaligned operand, which traps unless AVX, which comes with fused multiply-add, relaxes alignment.
    fn in_register(&mut self, x: Value) -> Value {
        if self.fma || self.b.func.dfg.value_type(x) != F32X4 {
            return x;
        }
        let bits = self.bits(I32X4, x);
        self.bits(F32X4, bits)
    }

    /// A comparison of floats.
    pub fn compare(&mut self, condition: FloatCC, a: Value, b: Value) -> Value {
        let (a, b) = (self.in_register(a), self.in_register(b));
        self.b.ins().fcmp(condition, a, b)
    }

    /// `condition ? a : b` in each lane; the condition is a comparison's result.
    pub fn choose(&mut self, condition: Value, a: Value, b: Value, lanes: u8) -> Value {
        if lanes == 1 {
            return self.b.ins().select(condition, a, b);
        }
        let ty = self.b.func.dfg.value_type(a);
        let mask = if ty == I32X4 {
            condition
        } else {
            self.bits(ty, condition)
        };
        self.b.ins().bitselect(mask, a, b)
    }

    /// The larger (`greater`) or smaller value in each lane. One instruction on x86; a NaN gives the second.
    pub fn extreme(&mut self, greater: bool, a: Value, b: Value, lanes: u8) -> Value {
        let float = matches!(self.b.func.dfg.value_type(a), F32 | F32X4);
        let (a, b) = (self.in_register(a), self.in_register(b));
        let condition = match (float, greater) {
            (true, true) => self.b.ins().fcmp(FloatCC::GreaterThan, a, b),
            (true, false) => self.b.ins().fcmp(FloatCC::LessThan, a, b),
            (false, true) => self.b.ins().icmp(IntCC::SignedGreaterThan, a, b),
            (false, false) => self.b.ins().icmp(IntCC::SignedLessThan, a, b),
        };
        self.choose(condition, a, b, lanes)
    }

    fn clamp(&mut self, x: Value, low: f32, high: f32, lanes: u8) -> Value {
        let (low, high) = (self.constant(low, lanes), self.constant(high, lanes));
        let x = self.extreme(true, x, low, lanes);
        self.extreme(false, x, high, lanes)
    }

    /// Polynomial in `x`, highest coefficient first.
    fn polynomial(&mut self, x: Value, coefficients: &[f32], lanes: u8) -> Value {
        let mut sum = self.constant(coefficients[0], lanes);
        for c in &coefficients[1..] {
            let c = self.constant(*c, lanes);
            sum = self.fma(sum, x, c);
        }
        sum
    }

    /// `e^x`: Cephes `expf`, relative error 1.2e-7; saturates at the ends of the f32 range.
    pub fn exp(&mut self, x: Value, lanes: u8) -> Value {
        let x = self.clamp(x, -87.336_54, 88.376_26, lanes);
        let log2e = self.constant(std::f32::consts::LOG2_E, lanes);
        let scaled = self.b.ins().fmul(x, log2e);
        let n = self.b.ins().nearest(scaled);
        let (high, low) = (
            self.constant(-0.693_359_4, lanes),
            self.constant(2.121_944_4e-4, lanes),
        );
        let r = self.fma(n, high, x);
        let r = self.fma(n, low, r);
        const P: [f32; 6] = [
            1.987_569_1e-4,
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            0.166_666_66,
            0.5,
        ];
        let p = self.polynomial(r, &P, lanes);
        let square = self.b.ins().fmul(r, r);
        let y = self.fma(p, square, r);
        let one = self.constant(1.0, lanes);
        let y = self.b.ins().fadd(y, one);
        let exponent = if lanes == 1 {
            self.b.ins().fcvt_to_sint_sat(I32, n)
        } else {
            self.b.ins().x86_cvtt2dq(I32X4, n)
        };
        let by = self.b.ins().iconst(I32, 23);
        let shifted = self.b.ins().ishl(exponent, by);
        let bits = self.bits(int_type(lanes), y);
        let sum = self.b.ins().iadd(bits, shifted);
        self.bits(Self::float_type(lanes), sum)
    }

    /// Odd rational function `x P(x^2) / Q(x^2)` of the clamped argument.
    fn rational(&mut self, x: Value, bound: f32, p: &[f32], q: &[f32], lanes: u8) -> Value {
        let x = self.clamp(x, -bound, bound, lanes);
        let square = self.b.ins().fmul(x, x);
        let p = self.polynomial(square, p, lanes);
        let p = self.b.ins().fmul(x, p);
        let q = self.polynomial(square, q, lanes);
        self.b.ins().fdiv(p, q)
    }

    /// Hyperbolic tangent: Eigen's rational approximation, a few ulp.
    pub fn tanh(&mut self, x: Value, lanes: u8) -> Value {
        const P: [f32; 7] = [
            -2.760_768_5e-16,
            2.000_188e-13,
            -8.604_672e-11,
            5.122_297e-8,
            1.485_722_4e-5,
            6.372_619_3e-4,
            4.893_524_6e-3,
        ];
        const Q: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
        self.rational(x, 7.998_811_7, &P, &Q, lanes)
    }

    /// The error function: Eigen's rational approximation on `[-4, 4]`, a few ulp.
    pub fn erf(&mut self, x: Value, lanes: u8) -> Value {
        const P: [f32; 7] = [
            -2.726_142_3e-10,
            2.770_681_4e-8,
            -2.101_024e-6,
            -5.692_506_6e-5,
            -7.349_906e-4,
            -2.954_6e-3,
            -1.609_603_4e-2,
        ];
        const Q: [f32; 5] = [
            -1.456_607_2e-5,
            -2.133_740_6e-4,
            -1.682_827e-3,
            -7.373_329e-3,
            -1.426_473_9e-2,
        ];
        self.rational(x, 4.0, &P, &Q, lanes)
    }

    /// A scalar function of the table in each lane.
    fn scalar_call(&mut self, slot: usize, x: Value, lanes: u8) -> Result<Value, String> {
        let one = |f: &mut Self, x| {
            f.call(slot, &[x], Some(F32))
                .ok_or("call gives no value".to_string())
        };
        if lanes == 1 {
            return one(self, x);
        }
        let mut out = [x; 4];
        for (lane, y) in (0u8..).zip(&mut out) {
            let element = self.b.ins().extractlane(x, lane);
            *y = one(self, element)?;
        }
        Ok(self.join(out))
    }

    /// An elementwise primitive. `dtype` is that of the first argument.
    pub fn elementwise(
        &mut self,
        op: &Op,
        args: &[Value],
        dtype: DType,
        lanes: u8,
    ) -> Result<Value, String> {
        let float = dtype == DType::F32;
        if !float && dtype != DType::I32 && dtype != DType::Bool {
            return Err(format!("{} of {dtype}", op.kind().name()));
        }
        let Some(x) = args.first().copied() else {
            return Err(format!("{} inside of a kernel", op.kind().name()));
        };
        let y = args.get(1).copied().unwrap_or(x);
        let bool = dtype == DType::Bool;
        Ok(match op {
            Op::Add(_) if float => self.b.ins().fadd(x, y),
            Op::Sub(_) if float => self.b.ins().fsub(x, y),
            Op::Mul(_) if float => self.b.ins().fmul(x, y),
            Op::Div(_) if float => self.b.ins().fdiv(x, y),
            Op::Add(_) => self.b.ins().iadd(x, y),
            Op::Sub(_) => self.b.ins().isub(x, y),
            Op::Mul(_) => self.b.ins().imul(x, y),
            Op::Max(_) => self.extreme(true, x, y, lanes),
            Op::Min(_) => self.extreme(false, x, y, lanes),
            Op::Exp(_) if float => self.exp(x, lanes),
            Op::Tanh(_) if float => self.tanh(x, lanes),
            Op::Erf(_) if float => self.erf(x, lanes),
            Op::Sin(_) if float => self.scalar_call(offset_of!(abi::KernelTable, sin), x, lanes)?,
            Op::Cos(_) if float => self.scalar_call(offset_of!(abi::KernelTable, cos), x, lanes)?,
            Op::Rsqrt(_) if float => {
                let root = self.b.ins().sqrt(x);
                let one = self.constant(1.0, lanes);
                self.b.ins().fdiv(one, root)
            }
            Op::Lt(_) if float => self.compare(FloatCC::LessThan, x, y),
            Op::Lt(_) if bool => self.b.ins().band_not(y, x),
            Op::Lt(_) => self.b.ins().icmp(IntCC::SignedLessThan, x, y),
            Op::Select(_) if args.len() == 3 => self.choose(x, y, args[2], lanes),
            Op::Cast(c) => self.cast(dtype, c.to, x, lanes),
            _ => return Err(format!("{} of {dtype}", op.kind().name())),
        })
    }
}
