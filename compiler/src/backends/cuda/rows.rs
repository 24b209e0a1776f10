//! A body over the columns of one row, or at one element: IR primitives to C++. Reductions come first, each in its own
//! loop, then the loop that stores. The threads of a row take its columns in turn, [`TOGETHER`] neighbours each. What is
//! rotated goes through shared memory, since every element needs others.
//!
//! Columns are walked in segments within which every `concat` picks one argument, so that indices stay linear.

use super::{
    expression::expression,
    rotate::Shared,
    text::{Text, literal, register},
};
use crate::backends::rows;
use ir::{DType, Graph, Node, Op, OpKind, Value as Term};
use std::collections::{BTreeSet, HashMap};

/// Neighbouring columns that a thread takes together, where segments divide so.
pub const TOGETHER: i64 = 4;

/// Loads of neighbours that a thread has on their way, about.
const LOADS: i64 = 12;

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
    pub(super) graph: &'a Graph,
    /// Rows of the inputs, of gathers (whose row the index gives), and of what was rotated.
    pub(super) rows: HashMap<Term, Row>,
    /// Values that are the same in every column.
    scalars: HashMap<Term, String>,
    pub(super) team: Team,
    pub(super) shared: Option<Shared>,
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
            shared: None,
        }
    }

    /// The output where every input is what `known` says, an expression of the text.
    pub fn element(
        &mut self,
        t: &mut Text,
        known: impl IntoIterator<Item = (Term, String)>,
    ) -> Result<String, String> {
        let mut memo: Memo = known.into_iter().map(|(v, x)| ((v, 0), x)).collect();
        self.value(t, self.graph.outputs[0], 0, "0", &mut memo)
    }

    /// Computes the body's output; `store(text, column, value)` says what becomes of each of its `columns` columns. The value is
    /// one number, or an array of [`TOGETHER`] for the columns from there.
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
        self.walk_row(t, threads, root, columns, &|t, start, x| {
            store(t, &shifted("i", start), x);
        })
    }

    /// [`Self::walk`] over all columns of a value, segment by segment; `each` also gets where the segment starts.
    pub(super) fn walk_row(
        &mut self,
        t: &mut Text,
        threads: u32,
        v: Term,
        columns: i64,
        each: &dyn Fn(&mut Text, i64, &str),
    ) -> Result<(), String> {
        self.prepare(t, v)?;
        for (start, len) in self.segments(v, columns)? {
            self.walk(t, threads, v, (start, len), &|t, x| each(t, start, x))?;
        }
        Ok(())
    }

    /// A loop over `len` columns of a value from `start`; `each` gets what holds it at `i`, or an array from there.
    fn walk(
        &mut self,
        t: &mut Text,
        threads: u32,
        v: Term,
        (start, len): (i64, i64),
        each: &dyn Fn(&mut Text, &str),
    ) -> Result<(), String> {
        if len % TOGETHER != 0 || start % TOGETHER != 0 {
            let head = format!("for (int i = lane; i < {len}; i += {threads})");
            return t.block(head, |t| {
                let x = self.value(t, v, start, "i", &mut Memo::new())?;
                each(t, &x);
                Ok(())
            });
        }
        // What is loaded for several turns before any is stored: loads do not overtake stores.
        let by = TOGETHER * i64::from(threads);
        let (turns, mut loads) = ((len + by - 1) / by, vec![]);
        self.fetched(v, start, &mut loads)?;
        let most = (LOADS / loads.len().max(1) as i64).clamp(1, turns);
        let rounds = (turns + most - 1) / most;
        let batch = (turns + rounds - 1) / rounds;
        let mut memo = Memo::new();
        let head = format!(
            "for (int i0 = {TOGETHER} * lane; i0 < {len}; i0 += {})",
            by * batch
        );
        t.block(head, |t| {
            let each_turn =
                |t: &mut Text, inside: &mut dyn FnMut(&mut Text) -> Result<(), String>| {
                    t.line("#pragma unroll");
                    t.block(format!("for (int u = 0; u < {batch}; u++)"), |t| {
                        t.line(format_args!("const int i = i0 + {by} * u;"));
                        if len % (by * batch) != 0 {
                            t.line(format_args!("if (i >= {len}) break;"));
                        }
                        inside(t)
                    })
                };
            for (v, base) in &loads {
                let ty = register(self.rows[v].dtype);
                let all = t.array(ty, &format!("[{batch}][{TOGETHER}]"));
                memo.insert((*v, *base), format!("{all}[u][j]"));
            }
            if !loads.is_empty() {
                each_turn(t, &mut |t| {
                    for (v, base) in &loads {
                        let row = &self.rows[v];
                        let (dtype, address, index) =
                            (row.dtype.name(), &row.address, shifted("i", *base));
                        let to = memo[&(*v, *base)].trim_end_matches("[j]");
                        t.line(format_args!("load_{dtype}({address}, {index}, {to});"));
                    }
                    Ok(())
                })?;
            }
            each_turn(t, &mut |t| {
                let all = t.array(register(self.graph.ty(v).dtype), &format!("[{TOGETHER}]"));
                t.line("#pragma unroll");
                t.block(format!("for (int j = 0; j < {TOGETHER}; j++)"), |t| {
                    let x = self.value(t, v, start, "(i + j)", &mut memo.clone())?;
                    t.line(format_args!("{all}[j] = {x};"));
                    Ok::<_, String>(())
                })?;
                each(t, &all);
                Ok(())
            })
        })
    }

    /// The inputs whose neighbours from column `base` on a value is computed from, each with its own column.
    fn fetched(&self, v: Term, base: i64, found: &mut Vec<(Term, i64)>) -> Result<(), String> {
        if self.is_scalar(v) || found.contains(&(v, base)) {
            return Ok(());
        }
        if let Some(row) = self.rows.get(&v) {
            if row.stride == 1 {
                found.push((v, base));
            }
            return Ok(());
        }
        let args = self.columns(v, base)?;
        args.into_iter()
            .try_for_each(|(v, base)| self.fetched(v, base, found))
    }

    /// Whether the value is the same in every column.
    fn is_scalar(&self, v: Term) -> bool {
        self.graph.ty(v).last().known() == Some(1)
    }

    /// Makes every scalar and rotated row that `v`'s columns need, before the loop over them.
    fn prepare(&mut self, t: &mut Text, v: Term) -> Result<(), String> {
        self.rotate(t, v)?;
        let mut stack = vec![v];
        let mut seen = BTreeSet::new();
        while let Some(v) = stack.pop() {
            if !seen.insert(v) {
                continue;
            }
            if self.is_scalar(v) {
                self.scalar(t, v)?;
            } else if !self.rows.contains_key(&v) {
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
        let op = match self.graph.op(v) {
            _ if self.rows.contains_key(&v) => return self.load(t, v, base, i),
            None => return Err(format!("value {} has no row", v.index())),
            Some(Op::Const(c)) => return Ok(literal(self.graph.ty(v).dtype, c.value.get())),
            Some(op) => op,
        };
        let args = self.columns(v, base)?.into_iter();
        let mut xs = args
            .map(|(v, base)| self.value(t, v, base, i, memo))
            .collect::<Result<Vec<_>, _>>()?;
        match (op, xs.pop()) {
            (Op::Slice(_) | Op::Concat(_), Some(x)) => Ok(x),
            (_, last) => {
                xs.extend(last);
                self.elementwise(t, v, op, &xs)
            }
        }
    }

    /// The arguments that column `base` of an op's value is computed from, each with its column.
    fn columns(&self, v: Term, base: i64) -> Result<Vec<(Term, i64)>, String> {
        let Node::Op { op, args } = self.graph.node(v) else {
            return Ok(vec![]);
        };
        let last = self.graph.ty(v).shape.len() as i64 - 1;
        match op {
            Op::Slice(s) if s.axis == last => Ok(vec![(args[0], base + s.start)]),
            Op::Concat(c) if c.axis == last => {
                let mut start = 0;
                for a in args {
                    let end = start + rows::width(self.graph, *a)?;
                    if base < end {
                        return Ok(vec![(*a, base - start)]);
                    }
                    start = end;
                }
                Err(format!("column {base} of a concat of {start}"))
            }
            Op::Slice(_) | Op::Concat(_) => Err(format!("{} of rows", op.kind().name())),
            _ => Ok(args.iter().map(|a| (*a, base)).collect()),
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
        let columns = rows::width(self.graph, arg)?;
        self.walk_row(t, threads, arg, columns, &|t, _, x| {
            t.line(format_args!("{sum} = join<{op}>({sum}, {x});"));
        })?;
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

pub(super) fn shifted(i: &str, by: i64) -> String {
    match by {
        0 => i.into(),
        _ => format!("{i} + {by}"),
    }
}
