//! C++ under construction: lines, blocks, names that differ. Knows the C names of element types and dims, nothing of
//! what is computed.

use ir::{DType, Dim, Name};
use std::fmt::{Display, Write};

/// A part of a translation unit.
#[derive(Default)]
pub struct Text {
    out: String,
    depth: usize,
    names: usize,
}

impl Text {
    /// Adds a line.
    pub fn line(&mut self, line: impl Display) {
        let _ = writeln!(self.out, "{:1$}{line}", "", 4 * self.depth);
    }

    /// A line that opens a block, what `inside` adds, and the block's end.
    pub fn block<T>(&mut self, head: impl Display, inside: impl FnOnce(&mut Text) -> T) -> T {
        self.line(format_args!("{head} {{"));
        self.depth += 1;
        let result = inside(self);
        self.depth -= 1;
        self.line("}");
        result
    }

    /// A constant of that name.
    pub fn constant(&mut self, name: &str, value: impl Display) {
        self.line(format_args!("constexpr int {name} = {value};"));
    }

    /// A new variable of the type that starts as `value`; gives its name.
    pub fn variable(&mut self, ty: &str, value: impl Display) -> String {
        let name = format!("v{}", self.names);
        self.names += 1;
        self.line(format_args!("{ty} {name} = {value};"));
        name
    }

    /// A new array of the type, of `sizes` as C++ writes them; gives its name.
    pub fn array(&mut self, ty: &str, sizes: &str) -> String {
        let name = format!("v{}", self.names);
        self.names += 1;
        self.line(format_args!("{ty} {name}{sizes};"));
        name
    }

    /// What was added.
    pub fn finish(self) -> String {
        self.out
    }
}

/// What elements of the type are computed with.
pub fn register(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::BF16 | DType::F16 => "float",
        DType::I32 | DType::I8 | DType::I16 => "int",
        DType::Bool => "bool",
    }
}

/// A literal of what elements of the type are computed with.
pub fn literal(dtype: DType, x: f64) -> String {
    match dtype {
        DType::I32 => format!("{}", x as i32),
        DType::Bool => format!("{}", x != 0.0),
        _ => float(dtype.round(x) as f32),
    }
}

/// An f32 literal, to the bit.
pub fn float(x: f32) -> String {
    if x.is_finite() {
        format!("{x:?}f")
    } else {
        format!("__uint_as_float({:#x}u)", x.to_bits())
    }
}

/// A dim's value in the step; an error names a symbol that the program does not pass.
pub fn dim(dim: &Dim, symbols: &[Name]) -> Result<String, String> {
    let mut terms = vec![];
    for (factor, powers) in dim.terms() {
        let mut product = vec![factor.to_string()];
        for symbol in powers {
            let at = symbols.iter().position(|s| *s == symbol.name);
            let at =
                at.ok_or_else(|| format!("symbol {} is not passed to kernels", symbol.name))?;
            product.push(format!("(int)args.dims[{at}]"));
        }
        if factor == 1 && product.len() > 1 {
            product.remove(0);
        }
        terms.push(product.join(" * "));
    }
    Ok(match terms.is_empty() {
        true => "0".into(),
        false => terms.join(" + "),
    })
}
