//! Programs whose kernels are of one kind, in the IR's text form. Knows shapes; measures nothing.

use compiler::{
    compress::{ActivationType, Rounding},
    models::ModelError,
};
use ir::{DType, Element, Program, abi::Codec};

/// Bytes of a table beside the weights: models that are this large have large pages.
const TABLE_BYTES: usize = 33 << 20;

/// How both sides of a product are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Of weights: elements by themselves, or rounded to integers in groups.
    pub codec: Codec,
    /// Of rows.
    pub rows: Rows,
}

/// How rows are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// As f32.
    F32,
    /// Rounded to bf16 where they are multiplied.
    Bf16,
    /// Rounded to 8 bits, in the groups of the weights, which are of few bits.
    Codes,
}

impl Storage {
    /// The program with its products' operands stored so.
    fn apply(self, program: &mut Program) -> Result<(), ModelError> {
        if self.rows == Rows::Bf16 {
            ActivationType::Bf16.apply(program)?;
        }
        if let Codec::Grouped { element, group } = self.codec {
            let rounding = Rounding {
                element,
                group,
                activations: (self.rows == Rows::Codes).then_some(Element::Q8),
            };
            rounding.apply(program, usize::MAX)?;
        }
        Ok(())
    }

    /// As which a checkpoint would hold the weights.
    fn dtype(self) -> DType {
        match self.codec {
            Codec::Plain(dtype) => dtype,
            Codec::Grouped { .. } => DType::F32,
        }
    }
}

/// A graph of one product.
fn product(name: &str, dtype: DType, k: u64, n: u64) -> String {
    let wide = match dtype {
        DType::F32 => "w",
        _ => "cast(w) {to=f32}",
    };
    format!(
        "graph {name}(x: f32[T,{k}], weight w: {dtype}[{n},{k}]) {{
  return linear(x, {wide})
}}
"
    )
}

/// A graph that gives the rows to begin with, and its table.
fn gathered(name: &str, rows: usize, columns: u64) -> String {
    format!(
        "weight table{columns}: f32[{rows},{columns}]
graph {name}(tokens: i32[T], weight table: f32[{rows},{columns}]) {{
  return gather(table, tokens)
}}
"
    )
}

/// Calls of products that nobody counts, which wake threads that sleep.
const WARM: usize = 8;

/// Products of up to `rows` rows with weights of each depth and number of columns, small ones first, each twice in a row: with
/// weights that were not read for long, and with those that were just read.
pub fn products(
    storage: Storage,
    rows: usize,
    depths: &[u64],
    columns: &[u64],
) -> Result<Program, ModelError> {
    let dtype = storage.dtype();
    let mut text = format!("sym T <= {rows}\ninput tokens: i32[T]\n");
    let mut calls = String::new();
    let (mut made, mut first) = (0, true);
    for k in depths {
        let large = depths.last() == Some(k);
        let bytes = if large { TABLE_BYTES } else { 0 };
        text += &gathered(
            &format!("rows{k}"),
            (bytes / (*k as usize * 4)).max(rows),
            *k,
        );
        calls += &format!("call rows{k}(tokens, @table{k})\n");
        let given = made;
        made += 1;
        let mut add = |name: String, n: u64, times: usize| {
            text += &format!("weight {name}: {dtype}[{n},{k}]\n");
            text += &product(&name, dtype, *k, n);
            calls += &format!("call {name}(#{given}.0, @{name})\n").repeat(times);
            made += times;
        };
        if std::mem::take(&mut first) {
            add("warm".into(), 256, WARM);
        }
        for n in columns {
            add(format!("product{k}x{n}"), *n, 2);
        }
    }
    // The first gathers rows: the smallest output.
    let text = format!("{text}{calls}output last_hidden_state = #0.0\n");
    let mut program: Program = text.parse().expect("a program of products");
    storage.apply(&mut program)?;
    Ok(program)
}

/// So many products of the same rows, each with a weight of its own.
pub fn repeated(
    storage: Storage,
    rows: usize,
    [k, n]: [u64; 2],
    count: usize,
) -> Result<Program, ModelError> {
    let dtype = storage.dtype();
    let mut text = format!("sym T <= {rows}\ninput tokens: i32[T]\n");
    text += &gathered("rows", rows, k);
    text += &format!("call rows(tokens, @table{k})\n");
    if count > 0 {
        text += &product("product", dtype, k, n);
    }
    for i in 0..count {
        text += &format!("weight w{i}: {dtype}[{n},{k}]\ncall product(#0.0, @w{i})\n");
    }
    text += "output last_hidden_state = #0.0\n";
    let mut program: Program = text.parse().expect("a program of products");
    storage.apply(&mut program)?;
    Ok(program)
}

/// Elementwise and row-wise work, from little to much for each element.
pub const MAPS: [&str; 3] = ["add", "norm", "gelu"];

/// Such work on rows of so many elements, each of the names so many times; where `mixed`, behind products, whose tasks leave each
/// row with several threads.
pub fn maps(names: &[&str], rows: usize, columns: u64, times: usize, mixed: bool) -> Program {
    let mut text = format!(
        "sym T <= {rows}
input tokens: i32[T]
weight gain: f32[{columns}]
weight bias: f32[{columns}]
"
    );
    text += &gathered("rows", rows, columns);
    text += &format!("call rows(tokens, @table{columns})\n");
    if mixed {
        text += &format!("weight w: f32[{columns},{columns}]\n");
        text += &product("product", DType::F32, columns, columns);
    }
    let mut calls = 1;
    for name in names {
        let (more, body, args) = match *name {
            "add" => (format!(", y: f32[T,{columns}]"), "add(x, y)", ", #0.0"),
            "norm" => (
                format!(", weight gain: f32[{columns}], weight bias: f32[{columns}]"),
                "add(mul(layer_norm(x) {eps=1e-5}, gain), bias)",
                ", @gain, @bias",
            ),
            _ => (String::new(), "gelu(x)", ""),
        };
        text += &format!("graph {name}(x: f32[T,{columns}]{more}) {{\n  return {body}\n}}\n");
        for _ in 0..times {
            let mut x = 0;
            if mixed {
                text += "call product(#0.0, @w)\n";
                x = calls;
                calls += 1;
            }
            text += &format!("call {name}(#{x}.0{args})\n");
            calls += 1;
        }
    }
    text += "output last_hidden_state = #0.0\n";
    text.parse().expect("a program of maps")
}

/// Attention of `layers` layers with so many heads of `dim` elements each, of sequences or of a cache that is kept.
pub fn attention(cached: bool, tokens: usize, heads: usize, dim: usize, layers: usize) -> Program {
    let width = heads * dim;
    let common = format!(
        "sym L <= {tokens}
sym R <= 268435456
sym T <= {tokens}
input tokens: i32[T]
input lo: i32[T]
input hi: i32[T]
weight table: f32[{tokens},{width}]
graph rows(tokens: i32[T], weight table: f32[{tokens},{width}]) {{
  return gather(table, tokens)
}}
"
    );
    let graph = match cached {
        false => format!(
            "graph attention(x: f32[T,{width}], lo: i32[T], hi: i32[T]) {{
  %h = reshape(x) {{shape=[T,{heads},{dim}]}}
  %out = attention(%h, %h, %h, lo, hi) {{scale=0.125, softcap=0.0}}
  return reshape(%out) {{shape=[T,{width}]}}
}}
"
        ),
        true => format!(
            "input rows: i32[T]
input select: i32[L]
graph attention(
    x: f32[T,{width}], state k: f32[R,{heads},{dim}], state v: f32[R,{heads},{dim}], rows: i32[T], lo: i32[T], hi: i32[T]
) {{
  %h = reshape(x) {{shape=[T,{heads},{dim}]}}
  %k = scatter(k, rows, %h)
  %v = scatter(v, rows, %h)
  %out = attention(%h, %k, %v, lo, hi) {{scale=0.125, softcap=0.0}}
  return reshape(%out) {{shape=[T,{width}]}}, %k, %v
}}
graph last(x: f32[T,{width}], select: i32[L]) {{
  return gather(x, select)
}}
"
        ),
    };
    let mut calls = "call rows(tokens, @table)\n".to_string();
    for layer in 0..layers {
        calls += &match cached {
            false => format!("call attention(#{layer}.0, lo, hi)\n"),
            true => format!(
                "state k{layer}: f32[R,{heads},{dim}]
state v{layer}: f32[R,{heads},{dim}]
call attention(#{layer}.0, $k{layer}, $v{layer}, rows, lo, hi) updates 1 -> k{layer}, 2 -> v{layer}
"
            ),
        };
    }
    let output = match cached {
        false => format!("output last_hidden_state = #{layers}.0\n"),
        true => {
            let last = layers + 1;
            format!("call last(#{layers}.0, select)\noutput logits = #{last}.0\n")
        }
    };
    let text = common + &graph + &calls + &output;
    text.parse().expect("a program of attention")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_well_formed() {
        let check = |program: Program, calls: usize| {
            assert!(program.verify().is_empty(), "{:?}", program.verify());
            assert_eq!(program.calls.len(), calls);
        };
        let storage = |codec, rows| Storage { codec, rows };
        for storage in [
            storage(Codec::Plain(DType::F32), Rows::F32),
            storage(Codec::Plain(DType::BF16), Rows::Bf16),
            storage(
                Codec::Grouped {
                    element: Element::Q4,
                    group: 32,
                },
                Rows::Codes,
            ),
        ] {
            check(
                products(storage, 8, &[64, 128], &[64, 96]).unwrap(),
                2 + WARM + 8,
            );
        }
        check(maps(&MAPS, 8, 64, 2, false), 7);
        check(maps(&MAPS, 8, 64, 2, true), 13);
        check(attention(false, 16, 2, 32, 3), 4);
        check(attention(true, 16, 2, 32, 3), 5);
    }
}
