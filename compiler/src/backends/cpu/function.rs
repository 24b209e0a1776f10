//! One kernel's function under construction: arguments, loops, addresses, calls through the function table. Knows
//! Cranelift and the kernel ABI, not templates.

use cranelift_codegen::{
    ir::{
        AbiParam, Function as Clif, InstBuilder, MemFlagsData, Signature, StackSlotData,
        StackSlotKind, Type, Value,
        condcodes::IntCC,
        types::{F32, I32, I64},
    },
    isa::{CallConv, TargetFrontendConfig},
};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use ir::{Dim, Name, abi};
use std::{collections::HashMap, mem::offset_of};

/// A function of type [`abi::KernelFn`].
pub struct Function<'f> {
    /// Cranelift's builder, at the current end of the code.
    pub b: FunctionBuilder<'f>,
    /// First task.
    pub begin: Value,
    /// One past the last task.
    pub end: Value,
    /// Whether fused multiply-add is an instruction.
    pub fma: bool,
    args: Value,
    env: Value,
    dims: HashMap<Name, Value>,
}

/// What generated code may assume of its memory accesses: they neither trap nor need alignment.
pub fn trusted() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

impl<'f> Function<'f> {
    /// Starts the function and loads the step's dims.
    pub fn new(
        function: &'f mut Clif,
        frontend: &'f mut FunctionBuilderContext,
        symbols: &[Name],
        fma: bool,
    ) -> Function<'f> {
        let mut b = FunctionBuilder::new(function, frontend);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let params = b.block_params(entry).to_vec();
        let at = offset_of!(abi::Env, dims) as i32;
        let dims = b.ins().load(I64, trusted(), params[1], at);
        let values = symbols
            .iter()
            .enumerate()
            .map(|(i, s)| (s.clone(), b.ins().load(I64, trusted(), dims, 8 * i as i32)))
            .collect();
        Function {
            b,
            begin: params[2],
            end: params[3],
            fma,
            args: params[0],
            env: params[1],
            dims: values,
        }
    }

    /// Returns from the function and ends it.
    pub fn finish(mut self, config: TargetFrontendConfig) {
        self.b.ins().return_(&[]);
        self.b.seal_all_blocks();
        self.b.finalize(config);
    }

    /// Base address of an operand.
    pub fn operand(&mut self, index: usize) -> Value {
        self.b
            .ins()
            .load(I64, trusted(), self.args, 8 * index as i32)
    }

    /// The calling thread's scratch memory.
    pub fn scratch(&mut self) -> Value {
        self.b.ins().load(
            I64,
            trusted(),
            self.env,
            offset_of!(abi::Env, scratch) as i32,
        )
    }

    /// An integer constant.
    pub fn int(&mut self, x: i64) -> Value {
        self.b.ins().iconst(I64, x)
    }

    /// `x + by`.
    pub fn add(&mut self, x: Value, by: i64) -> Value {
        if by == 0 {
            return x;
        }
        let by = self.int(by);
        self.b.ins().iadd(x, by)
    }

    /// `x * by`.
    pub fn scale(&mut self, x: Value, by: i64) -> Value {
        match by {
            1 => x,
            _ => {
                let by = self.int(by);
                self.b.ins().imul(x, by)
            }
        }
    }

    /// `base + index * bytes`.
    pub fn offset(&mut self, base: Value, index: Value, bytes: i64) -> Value {
        if bytes == 0 {
            return base;
        }
        let shift = self.scale(index, bytes);
        self.b.ins().iadd(base, shift)
    }

    /// The smaller of two non-negative integers.
    pub fn min(&mut self, a: Value, b: Value) -> Value {
        let less = self.b.ins().icmp(IntCC::SignedLessThan, a, b);
        self.b.ins().select(less, a, b)
    }

    /// Value of a dim in this step; an error names a symbol that the program does not pass.
    pub fn dim(&mut self, dim: &Dim) -> Result<Value, String> {
        if let Some(n) = dim.known() {
            return Ok(self.int(n));
        }
        // Kernels count single symbols (tokens, rows); polynomials appear only when axes are joined.
        let symbols: Vec<_> = dim.symbols().cloned().collect();
        let [symbol] = &symbols[..] else {
            return Err(format!(
                "rows counted by {dim}, which is no multiple of one symbol"
            ));
        };
        let factor = dim.div_exact(&symbol.into()).and_then(|d| d.known());
        let factor = factor.ok_or_else(|| format!("rows counted by {dim}"))?;
        let value = *self
            .dims
            .get(&symbol.name)
            .ok_or_else(|| format!("symbol {} is not passed to kernels", symbol.name))?;
        Ok(self.scale(value, factor))
    }

    /// `for i in (start..end).step_by(step)`, carrying values from turn to turn; gives what the last turn carried.
    pub fn repeat(
        &mut self,
        start: Value,
        end: Value,
        step: i64,
        carried: &[Value],
        turn: impl FnOnce(&mut Self, Value, &[Value]) -> Result<Vec<Value>, String>,
    ) -> Result<Vec<Value>, String> {
        let (body, exit) = (self.b.create_block(), self.b.create_block());
        let index = self.b.append_block_param(body, I64);
        let types: Vec<Type> = carried
            .iter()
            .map(|v| self.b.func.dfg.value_type(*v))
            .collect();
        let inner: Vec<Value> = types
            .iter()
            .map(|t| self.b.append_block_param(body, *t))
            .collect();
        let outer: Vec<Value> = types
            .iter()
            .map(|t| self.b.append_block_param(exit, *t))
            .collect();
        let args = |first: Option<Value>, rest: &[Value]| {
            first
                .iter()
                .chain(rest)
                .map(|v| (*v).into())
                .collect::<Vec<_>>()
        };
        let any = self.b.ins().icmp(IntCC::SignedLessThan, start, end);
        self.b.ins().brif(
            any,
            body,
            &args(Some(start), carried),
            exit,
            &args(None, carried),
        );
        self.b.switch_to_block(body);
        let next = turn(self, index, &inner)?;
        let step = self.add(index, step);
        let more = self.b.ins().icmp(IntCC::SignedLessThan, step, end);
        self.b.ins().brif(
            more,
            body,
            &args(Some(step), &next),
            exit,
            &args(None, &next),
        );
        self.b.switch_to_block(exit);
        Ok(outer)
    }

    /// Calls the function at `slot` bytes of the function table.
    pub fn call(&mut self, slot: usize, args: &[Value], returns: Option<Type>) -> Option<Value> {
        let mut signature = Signature::new(CallConv::SystemV);
        let types = args.iter().map(|a| self.b.func.dfg.value_type(*a));
        signature.params = types.map(AbiParam::new).collect();
        signature.returns = returns.into_iter().map(AbiParam::new).collect();
        let signature = self.b.import_signature(signature);
        let table = self
            .b
            .ins()
            .load(I64, trusted(), self.env, offset_of!(abi::Env, table) as i32);
        let callee = self.b.ins().load(I64, trusted(), table, slot as i32);
        let call = self.b.ins().call_indirect(signature, callee, args);
        self.b.inst_results(call).first().copied()
    }

    /// A structure on the stack, filled field by field; gives its address.
    pub fn structure(&mut self, bytes: usize, fields: &[(usize, Value)]) -> Value {
        let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes as u32, 4);
        let slot = self.b.create_sized_stack_slot(slot);
        for (offset, value) in fields {
            self.b.ins().stack_store(I64, *value, slot, *offset as i32);
        }
        self.b.ins().stack_addr(I64, slot, 0)
    }

    /// An f32 constant.
    pub fn float(&mut self, x: f64) -> Value {
        self.b.ins().f32const(x as f32)
    }

    /// A 32-bit integer at an address, widened.
    pub fn load_index(&mut self, address: Value) -> Value {
        let narrow = self.b.ins().load(I32, trusted(), address, 0);
        self.b.ins().sextend(I64, narrow)
    }

    /// The type of a scalar or vector of f32.
    pub fn float_type(lanes: u8) -> Type {
        if lanes == 1 {
            F32
        } else {
            cranelift_codegen::ir::types::F32X4
        }
    }
}
