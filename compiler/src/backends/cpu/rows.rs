//! A body over the columns of one row: reductions first, each in its own loop, then the store loop. The only place
//! that turns IR primitives into vector code.
//!
//! Columns are walked in segments within which every `concat` picks one argument, so that indices stay linear.

use super::{function::Function, functions::Spare, lanes::WIDTH};
use crate::backends::rows;
use cranelift_codegen::ir::{InstBuilder, Value, types::I8};
use ir::{DType, Graph, Node, Op, OpKind, Value as Term};
use std::collections::{BTreeSet, HashMap};

/// Where an input of the body, or its output, is for the current row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Address of column 0.
    pub address: Value,
    /// Element type in memory.
    pub dtype: DType,
    /// Elements between neighbouring columns.
    pub stride: i64,
}

/// How many columns a row has.
#[derive(Clone, Copy, Debug)]
pub enum Columns {
    /// Always so many.
    Known(i64),
    /// So many in this task; segments cannot differ.
    Dynamic(Value),
}

/// A body being applied to one row.
pub struct RowBody<'a> {
    pub(super) graph: &'a Graph,
    /// Rows of the inputs, of gathers (whose row the index gives), and of what was computed into memory.
    pub(super) rows: HashMap<Term, Row>,
    /// Where rows may be computed, and bytes used of it.
    pub(super) spare: Option<Spare>,
    pub(super) used: i64,
    /// Values that are the same in every column.
    scalars: HashMap<Term, Value>,
    /// The same in every lane, made before the loop that uses them.
    splats: HashMap<Term, Value>,
    /// Every value is a scalar: the rows have one column.
    pointwise: bool,
}

impl<'a> RowBody<'a> {
    /// A body whose inputs (and gathers) lie at `rows`.
    pub fn new(graph: &'a Graph, rows: HashMap<Term, Row>, pointwise: bool) -> RowBody<'a> {
        RowBody {
            graph,
            rows,
            spare: None,
            used: 0,
            scalars: HashMap::new(),
            splats: HashMap::new(),
            pointwise,
        }
    }

    /// With memory for rows of functions.
    pub fn with(mut self, spare: Spare) -> RowBody<'a> {
        self.spare = Some(spare);
        self
    }

    /// Computes the body's output and stores it at `out`.
    pub fn store(&mut self, f: &mut Function, out: Row, columns: Columns) -> Result<(), String> {
        let root = self.graph.outputs[0];
        if self.pointwise || matches!(columns, Columns::Known(1)) {
            let x = self.scalar(f, root)?;
            return f.store(out.dtype, x, out.address, 0, 1, 1);
        }
        self.call_functions(f, root)?;
        self.write(f, root, out, columns)
    }

    /// Computes a value that differs between columns and stores it at `out`.
    pub(super) fn write(
        &mut self,
        f: &mut Function,
        root: Term,
        out: Row,
        columns: Columns,
    ) -> Result<(), String> {
        let bytes = out.dtype.bytes() as i64 * out.stride;
        self.prepare(f, root)?;
        let segments = match columns {
            Columns::Known(n) => self.segments(root, n)?,
            Columns::Dynamic(_) => vec![(0, 0)],
        };
        for (start, len) in segments {
            let (vectors, end) = match columns {
                Columns::Known(_) => (f.int(len / WIDTH * WIDTH), f.int(len)),
                Columns::Dynamic(n) => {
                    let mask = f.int(-WIDTH);
                    (f.b.ins().band(n, mask), n)
                }
            };
            let zero = f.int(0);
            for (from, to, lanes) in [(zero, vectors, 4), (vectors, end, 1)] {
                if matches!(columns, Columns::Known(_))
                    && ((lanes == 4 && len < WIDTH) || (lanes == 1 && len % WIDTH == 0))
                {
                    continue;
                }
                f.repeat(from, to, lanes.into(), &[], |f, i, _| {
                    let x = self.value(f, root, start, i, lanes, &mut HashMap::new())?;
                    let address = f.offset(out.address, i, bytes);
                    f.store(out.dtype, x, address, bytes * start, out.stride, lanes)?;
                    Ok(vec![])
                })?;
            }
        }
        Ok(())
    }

    /// Whether the value is the same in every column.
    pub(super) fn is_scalar(&self, v: Term) -> bool {
        self.pointwise || self.graph.ty(v).last().known() == Some(1)
    }

    /// Makes every scalar that `v`'s columns need, before the loop over them.
    fn prepare(&mut self, f: &mut Function, v: Term) -> Result<(), String> {
        let mut stack = vec![v];
        let mut seen = BTreeSet::new();
        while let Some(v) = stack.pop() {
            if !seen.insert(v) {
                continue;
            }
            if self.is_scalar(v) {
                let x = self.scalar(f, v)?;
                self.splats.entry(v).or_insert_with(|| f.broadcast(x, 4));
            } else if !self.rows.contains_key(&v) {
                stack.extend(self.graph.args(v));
            }
        }
        Ok(())
    }

    /// A value that is the same in every column.
    fn scalar(&mut self, f: &mut Function, v: Term) -> Result<Value, String> {
        if let Some(x) = self.scalars.get(&v) {
            return Ok(*x);
        }
        let dtype = self.graph.ty(v).dtype;
        let x = match self.graph.node(v) {
            Node::Input { .. } => self.load(f, v, 0, None, 1)?,
            Node::Op { op, args } => match op {
                Op::Const(c) => match dtype {
                    DType::I32 => f.int_constant(c.value.get() as i32, 1),
                    DType::Bool => f.b.ins().iconst(I8, i64::from(c.value.get() != 0.0)),
                    _ => f.constant(dtype.round(c.value.get()) as f32, 1),
                },
                Op::Gather(_) => self.load(f, v, 0, None, 1)?,
                Op::Sum(_) | Op::Amax(_) => self.reduce(f, op.kind() == OpKind::Amax, args[0])?,
                Op::Slice(_) | Op::Concat(_) => {
                    let zero = f.int(0);
                    for a in args {
                        self.call_functions(f, *a)?;
                        self.prepare(f, *a)?;
                    }
                    let mut memo = HashMap::new();
                    self.pick(f, v, 0, zero, 1, &mut memo)?
                }
                _ => {
                    let xs = args
                        .iter()
                        .map(|a| self.scalar(f, *a))
                        .collect::<Result<Vec<_>, _>>()?;
                    self.elementwise(f, v, op, &xs, 1)?
                }
            },
        };
        self.scalars.insert(v, x);
        Ok(x)
    }

    /// Element type as computed with: narrow floats were widened when loaded.
    fn compute_dtype(&self, v: Term) -> DType {
        match self.graph.ty(v).dtype {
            DType::BF16 | DType::F16 => DType::F32,
            dtype => dtype,
        }
    }

    /// An op of the graph on computed arguments; a narrow result is rounded.
    fn elementwise(
        &self,
        f: &mut Function,
        v: Term,
        op: &Op,
        args: &[Value],
        lanes: u8,
    ) -> Result<Value, String> {
        let dtype = self.graph.ty(v).dtype;
        let first = self.graph.args(v).first();
        let first = first.map_or(dtype, |a| self.compute_dtype(*a));
        let x = f.elementwise(op, args, first, lanes)?;
        Ok(f.round(dtype, x, lanes))
    }

    /// Columns `base + i ..` of a value.
    fn value(
        &mut self,
        f: &mut Function,
        v: Term,
        base: i64,
        i: Value,
        lanes: u8,
        memo: &mut HashMap<(Term, i64), Value>,
    ) -> Result<Value, String> {
        if self.is_scalar(v) {
            let known = if lanes == 1 {
                &self.scalars
            } else {
                &self.splats
            };
            return known
                .get(&v)
                .copied()
                .ok_or_else(|| format!("value {} is not ready", v.index()));
        }
        if let Some(x) = memo.get(&(v, base)) {
            return Ok(*x);
        }
        let x = self.pick(f, v, base, i, lanes, memo)?;
        memo.insert((v, base), x);
        Ok(x)
    }

    /// [`Self::value`] of something that varies over columns, or is one column of it.
    fn pick(
        &mut self,
        f: &mut Function,
        v: Term,
        base: i64,
        i: Value,
        lanes: u8,
        memo: &mut HashMap<(Term, i64), Value>,
    ) -> Result<Value, String> {
        let Node::Op { op, args } = self.graph.node(v) else {
            return self.load(f, v, base, Some(i), lanes);
        };
        if self.rows.contains_key(&v) {
            return self.load(f, v, base, Some(i), lanes);
        }
        let last = self.graph.ty(v).shape.len() as i64 - 1;
        match op {
            Op::Slice(s) if s.axis == last => {
                self.value(f, args[0], base + s.start, i, lanes, memo)
            }
            Op::Concat(c) if c.axis == last => {
                let mut start = 0;
                for a in args {
                    let end = start + rows::width(self.graph, *a)?;
                    if base < end {
                        return self.value(f, *a, base - start, i, lanes, memo);
                    }
                    start = end;
                }
                Err(format!("column {base} of a concat of {start}"))
            }
            _ => {
                let xs = args
                    .iter()
                    .map(|a| self.value(f, *a, base, i, lanes, memo))
                    .collect::<Result<Vec<_>, _>>()?;
                self.elementwise(f, v, op, &xs, lanes)
            }
        }
    }

    fn load(
        &self,
        f: &mut Function,
        v: Term,
        base: i64,
        i: Option<Value>,
        lanes: u8,
    ) -> Result<Value, String> {
        let row = self
            .rows
            .get(&v)
            .ok_or_else(|| format!("value {} has no row", v.index()))?;
        let step = row.dtype.bytes() as i64 * row.stride;
        let address = match i {
            Some(i) => f.offset(row.address, i, step),
            None => row.address,
        };
        if lanes == 1 || row.stride == 1 {
            return f.load(row.dtype, address, base * step, lanes);
        }
        let mut columns = [address; 4];
        for (lane, x) in (0i64..).zip(&mut columns) {
            *x = f.load(row.dtype, address, (base + lane) * step, 1)?;
        }
        Ok(f.join(columns))
    }

    /// Sum or maximum over the columns, in an order that depends on their number alone.
    fn reduce(&mut self, f: &mut Function, max: bool, arg: Term) -> Result<Value, String> {
        self.call_functions(f, arg)?;
        self.prepare(f, arg)?;
        let n = rows::width(self.graph, arg)?;
        let dtype = self.compute_dtype(arg);
        let first = |f: &mut Function, lanes| match (dtype, max) {
            (DType::F32, true) => Ok(f.constant(f32::NEG_INFINITY, lanes)),
            (DType::F32, false) => Ok(f.constant(0.0, lanes)),
            (DType::I32, true) => Ok(f.int_constant(i32::MIN, lanes)),
            (DType::I32, false) => Ok(f.int_constant(0, lanes)),
            (other, _) => Err(format!("sum of {other}")),
        };
        let join = |f: &mut Function, a, b, lanes| match (dtype, max) {
            (_, true) => f.extreme(true, a, b, lanes),
            (DType::I32, false) => f.b.ins().iadd(a, b),
            (_, false) => f.b.ins().fadd(a, b),
        };
        let mut total = first(f, 1)?;
        for (base, len) in self.segments(arg, n)? {
            const UNROLL: i64 = 4;
            let (blocks, vectors) = (len / (UNROLL * WIDTH) * UNROLL * WIDTH, len / WIDTH * WIDTH);
            let mut sums = vec![first(f, 4)?; UNROLL as usize];
            let (zero, blocks_end, vectors_end, end) =
                (f.int(0), f.int(blocks), f.int(vectors), f.int(len));
            if blocks > 0 {
                sums = f.repeat(zero, blocks_end, UNROLL * WIDTH, &sums, |f, i, sums| {
                    let mut next = vec![];
                    for (u, s) in sums.iter().enumerate() {
                        let shift = base + u as i64 * WIDTH;
                        let x = self.value(f, arg, shift, i, 4, &mut HashMap::new())?;
                        next.push(join(f, *s, x, 4));
                    }
                    Ok(next)
                })?;
            }
            if blocks < vectors {
                let first = f.repeat(blocks_end, vectors_end, WIDTH, &sums[..1], |f, i, s| {
                    let x = self.value(f, arg, base, i, 4, &mut HashMap::new())?;
                    Ok(vec![join(f, s[0], x, 4)])
                })?;
                sums[0] = first[0];
            }
            if vectors > 0 {
                let (a, b) = (join(f, sums[0], sums[1], 4), join(f, sums[2], sums[3], 4));
                let sum = join(f, a, b, 4);
                for lane in 0..4u8 {
                    let x = f.b.ins().extractlane(sum, lane);
                    total = join(f, total, x, 1);
                }
            }
            if vectors < len {
                let tail = f.repeat(vectors_end, end, 1, &[total], |f, i, s| {
                    let x = self.value(f, arg, base, i, 1, &mut HashMap::new())?;
                    Ok(vec![join(f, s[0], x, 1)])
                })?;
                total = tail[0];
            }
        }
        Ok(f.round(self.graph.ty(arg).dtype, total, 1))
    }

    /// See [`rows::segments`].
    fn segments(&self, v: Term, len: i64) -> Result<Vec<(i64, i64)>, String> {
        rows::segments(self.graph, &|v| self.is_scalar(v), v, 0, len)
    }
}
