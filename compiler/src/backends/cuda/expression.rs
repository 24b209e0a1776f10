//! Elementwise primitives as C++ expressions. Knows no loops and no memory.

use super::text::register;
use ir::{DType, Op};

/// An elementwise primitive. `dtype` is that of the first argument.
pub fn expression(op: &Op, args: &[String], dtype: DType) -> Result<String, String> {
    let float = dtype.is_float();
    let refused = || Err(format!("{} of {dtype}", op.kind().name()));
    let x = match args.first() {
        Some(x) => x,
        None => return Err(format!("{} inside of a kernel", op.kind().name())),
    };
    let y = args.get(1).unwrap_or(x);
    Ok(match op {
        Op::Add(_) => format!("{x} + {y}"),
        Op::Sub(_) => format!("{x} - {y}"),
        Op::Mul(_) => format!("{x} * {y}"),
        Op::Div(_) if float => format!("{x} / {y}"),
        Op::Max(_) => format!("larger({x}, {y})"),
        Op::Min(_) => format!("smaller({x}, {y})"),
        Op::Exp(_) if float => format!("expf({x})"),
        Op::Tanh(_) if float => format!("tanhf({x})"),
        Op::Erf(_) if float => format!("erff({x})"),
        Op::Sin(_) if float => format!("sine({x})"),
        Op::Cos(_) if float => format!("cosine({x})"),
        Op::Rsqrt(_) if float => format!("rsqrtf({x})"),
        Op::Lt(_) if dtype == DType::Bool => format!("!{x} && {y}"),
        Op::Lt(_) => format!("{x} < {y}"),
        Op::Select(_) if args.len() == 3 => format!("{x} ? {y} : {}", args[2]),
        Op::Cast(c) => match c.to {
            DType::Bool if float => format!("{x} != 0.0f"),
            to => format!("({}){x}", register(to)),
        },
        _ => return refused(),
    })
}
