//! A body over the columns of one row, or at one element: IR primitives to C++. Reductions come first, each in its own
//! loop, then the loop that stores. The threads of a row take its columns in turn.
//!
//! Columns are walked in segments within which every `concat` picks one argument, so that indices stay linear.

use super::text::{Text, literal, register};
use crate::backends::rows;
use ir::{DType, Graph, Node, Op, OpKind, Value as Term};
use std::collections::{BTreeSet, HashMap};

/// Where an input of the body is for the current row.
#[derive(Clone, Debug)]
pub struct Row {
    /// A `const char*`: the address of column 0.
    pub address: String,
    /// Element type in memory.
    pub dtype: DType,
    /// Elements between neighbouring columns.
    pub stride: i64,
}

/// Who computes a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Team {
    /// So many threads, column by column: 32, or a block.
    Threads(u32),
    /// One thread, one element: nothing is a row, and reductions have no place.
    Element,
}

/// A body being applied to one row.
pub struct RowBody<'a> {
    graph: &'a Graph,
    /// Rows of the inputs, and of gathers (whose row the index gives).
    rows: HashMap<Term, Row>,
    /// Values that are the same in every column.
    scalars: HashMap<Term, String>,
    team: Team,
}

/// Columns of values already computed, in the scope of a loop.
type Memo = HashMap<(Term, i64), String>;

impl<'a> RowBody<'a> {
    /// A body whose inputs (and gathers) lie at `rows`.
    pub fn new(graph: &'a Graph, rows: HashMap<Term, Row>, team: Team) -> RowBody<'a> {
        RowBody {
            graph,
            rows,
            scalars: HashMap::new(),
            team,
        }
    }

    /// The output at `column`, an expression of the text.
    pub fn element(&mut self, t: &mut Text, column: &str) -> Result<String, String> {
        self.value(t, self.graph.outputs[0], 0, column, &mut Memo::new())
    }

    /// Computes the body's output; `store(text, column, value)` says what becomes of each of its `columns` columns.
    pub fn store(
        &mut self,
        t: &mut Text,
        columns: i64,
        store: &dyn Fn(&mut Text, &str, &str),
    ) -> Result<(), String> {
        let root = self.graph.outputs[0];
        let Team::Threads(threads) = self.team else {
            let x = self.scalar(t, root)?;
            store(t, "0", &x);
            return Ok(());
        };
        if columns == 1 {
            let x = self.scalar(t, root)?;
            t.block("if (lane == 0)", |t| store(t, "0", &x));
            return Ok(());
        }
        self.prepare(t, root)?;
        for (start, len) in self.segments(root, columns)? {
            let head = format!("for (int i = lane; i < {len}; i += {threads})");
            t.block(head, |t| {
                let x = self.value(t, root, start, "i", &mut Memo::new())?;
                store(t, &shifted("i", start), &x);
                Ok::<_, String>(())
            })?;
        }
        Ok(())
    }

    /// Whether the value is the same in every column.
    fn is_scalar(&self, v: Term) -> bool {
        self.graph.ty(v).last().known() == Some(1)
    }

    /// Makes every scalar that `v`'s columns need, before the loop over them.
    fn prepare(&mut self, t: &mut Text, v: Term) -> Result<(), String> {
        let mut stack = vec![v];
        let mut seen = BTreeSet::new();
        while let Some(v) = stack.pop() {
            if !seen.insert(v) {
                continue;
            }
            if self.is_scalar(v) {
                self.scalar(t, v)?;
            } else if self.graph.op(v).is_none_or(|o| o.kind() != OpKind::Gather) {
                stack.extend(self.graph.args(v));
            }
        }
        Ok(())
    }

    /// A value that is the same in every column, or at the one column there is.
    fn scalar(&mut self, t: &mut Text, v: Term) -> Result<String, String> {
        if let Some(x) = self.scalars.get(&v) {
            return Ok(x.clone());
        }
        let x = match self.graph.node(v) {
            Node::Op { op, args } => match op {
                Op::Const(c) => literal(self.graph.ty(v).dtype, c.value.get()),
                Op::Gather(_) => self.load(t, v, 0, "0")?,
                Op::Sum(_) | Op::Amax(_) => self.reduce(t, op.kind() == OpKind::Amax, args[0])?,
                Op::Slice(_) | Op::Concat(_) => {
                    for a in args {
                        self.prepare(t, *a)?;
                    }
                    self.pick(t, v, 0, "0", &mut Memo::new())?
                }
                _ => {
                    let xs = args
                        .iter()
                        .map(|a| self.scalar(t, *a))
                        .collect::<Result<Vec<_>, _>>()?;
                    self.elementwise(t, v, op, &xs)?
                }
            },
            Node::Input { .. } => self.load(t, v, 0, "0")?,
        };
        self.scalars.insert(v, x.clone());
        Ok(x)
    }

    /// An op of the graph on computed arguments; a narrow result is rounded.
    fn elementwise(
        &self,
        t: &mut Text,
        v: Term,
        op: &Op,
        args: &[String],
    ) -> Result<String, String> {
        let dtype = self.graph.ty(v).dtype;
        let first = self.graph.args(v).first();
        let first = first.map_or(dtype, |a| self.graph.ty(*a).dtype);
        let x = expression(op, args, first)?;
        let x = match dtype {
            DType::BF16 | DType::F16 => format!("round_{}({x})", dtype.name()),
            _ => x,
        };
        Ok(t.variable(&format!("const {}", register(dtype)), x))
    }

    /// Column `base + i` of a value.
    fn value(
        &mut self,
        t: &mut Text,
        v: Term,
        base: i64,
        i: &str,
        memo: &mut Memo,
    ) -> Result<String, String> {
        if self.is_scalar(v) && self.team != Team::Element {
            let known = self.scalars.get(&v).cloned();
            return known.ok_or_else(|| format!("value {} is not ready", v.index()));
        }
        if let Some(x) = memo.get(&(v, base)) {
            return Ok(x.clone());
        }
        let x = self.pick(t, v, base, i, memo)?;
        memo.insert((v, base), x.clone());
        Ok(x)
    }

    /// [`Self::value`] of something that varies over columns, or is one column of it.
    fn pick(
        &mut self,
        t: &mut Text,
        v: Term,
        base: i64,
        i: &str,
        memo: &mut Memo,
    ) -> Result<String, String> {
        let Node::Op { op, args } = self.graph.node(v) else {
            return self.load(t, v, base, i);
        };
        let last = self.graph.ty(v).shape.len() as i64 - 1;
        match op {
            Op::Const(c) => Ok(literal(self.graph.ty(v).dtype, c.value.get())),
            Op::Gather(_) => self.load(t, v, base, i),
            Op::Slice(s) if s.axis == last => self.value(t, args[0], base + s.start, i, memo),
            Op::Concat(c) if c.axis == last => {
                let mut start = 0;
                for a in args {
                    let end = start + rows::width(self.graph, *a)?;
                    if base < end {
                        return self.value(t, *a, base - start, i, memo);
                    }
                    start = end;
                }
                Err(format!("column {base} of a concat of {start}"))
            }
            _ => {
                let xs = args
                    .iter()
                    .map(|a| self.value(t, *a, base, i, memo))
                    .collect::<Result<Vec<_>, _>>()?;
                self.elementwise(t, v, op, &xs)
            }
        }
    }

    fn load(&self, t: &mut Text, v: Term, base: i64, i: &str) -> Result<String, String> {
        let row = self.rows.get(&v);
        let row = row.ok_or_else(|| format!("value {} has no row", v.index()))?;
        let index = match row.stride {
            0 => "0".into(),
            1 => shifted(i, base),
            stride => format!("({}) * {stride}", shifted(i, base)),
        };
        let load = format!("load_{}({}, {index})", row.dtype.name(), row.address);
        Ok(t.variable(&format!("const {}", register(row.dtype)), load))
    }

    /// Sum or maximum over the columns, in an order that depends on their number alone.
    fn reduce(&mut self, t: &mut Text, max: bool, arg: Term) -> Result<String, String> {
        let Team::Threads(threads) = self.team else {
            return Err("a reduction over elements that are walked singly".into());
        };
        self.prepare(t, arg)?;
        let dtype = self.graph.ty(arg).dtype;
        let first = match (dtype, max) {
            (DType::I32, true) => "(-0x7fffffff - 1)".into(),
            (DType::Bool, _) => return Err(format!("sum of {dtype}")),
            (_, true) => literal(DType::F32, f64::NEG_INFINITY),
            (_, false) => literal(dtype, 0.0),
        };
        let op = if max { "Max" } else { "Add" };
        let sum = t.variable(register(dtype), first);
        for (base, len) in self.segments(arg, rows::width(self.graph, arg)?)? {
            let head = format!("for (int i = lane; i < {len}; i += {threads})");
            t.block(head, |t| {
                let x = self.value(t, arg, base, "i", &mut Memo::new())?;
                t.line(format_args!("{sum} = {op}::join({sum}, {x});"));
                Ok::<_, String>(())
            })?;
        }
        let mut all = format!("over_row<{op}, {threads}>({sum})");
        if matches!(dtype, DType::BF16 | DType::F16) {
            all = format!("round_{}({all})", dtype.name());
        }
        Ok(t.variable(&format!("const {}", register(dtype)), all))
    }

    /// See [`rows::segments`].
    fn segments(&self, v: Term, len: i64) -> Result<Vec<(i64, i64)>, String> {
        rows::segments(self.graph, &|v| self.is_scalar(v), v, 0, len)
    }
}

fn shifted(i: &str, by: i64) -> String {
    match by {
        0 => i.into(),
        _ => format!("{i} + {by}"),
    }
}

/// An elementwise primitive. `dtype` is that of the first argument.
fn expression(op: &Op, args: &[String], dtype: DType) -> Result<String, String> {
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
