//! From an extracted graph to kernels: each kernel term becomes one kernel, its body a graph of primitives over the
//! kernel's operands; views become strides. Decides no fusion (extraction did) and no memory (see `memory`).

use super::{
    Buffer, Operand, ScheduleError,
    body::Read,
    kernel::{Kernel, Order, Packing, Round, Step, Temp, Template, WeightTerm},
    known::{storage, weights_only},
    layout::layouts,
    view::View,
};
use crate::storage::Storage;
use ir::{
    DType, Dim, Graph, Node, Op, OpKind, Role, Type, Value,
    abi::{Codec, Layout},
    ops,
};
use std::collections::HashMap;

/// Builds the kernels of one graph.
pub(super) struct Kernels<'a> {
    pub(super) graph: &'a Graph,
    pub(super) order: Order,
    pub(super) open: Vec<bool>,
    weights_only: Vec<bool>,
    pub(super) storage: Vec<Storage>,
    /// The value that a state holds since its rows were replaced.
    current: HashMap<Buffer, Value>,
    /// How each of the graph's inputs lies in memory.
    pub layouts: Vec<Layout>,
    /// Where each materialised value lies.
    pub placed: HashMap<Value, Buffer>,
    pub kernels: Vec<Kernel>,
    pub steps: Vec<Step>,
    pub weights: Vec<WeightTerm>,
    /// Types of the values that kernels write to memory of the step.
    pub temps: Vec<Temp>,
}

impl<'a> Kernels<'a> {
    pub fn new(graph: &'a Graph, order: Order) -> Kernels<'a> {
        let weights_only = weights_only(graph);
        let mut placed = HashMap::new();
        for (i, v) in graph.inputs().iter().enumerate() {
            if !weights_only[v.index()] {
                placed.insert(*v, Buffer::Input(i));
            }
        }
        Kernels {
            graph,
            order,
            open: graph.open(),
            storage: storage(graph),
            weights_only,
            layouts: match order.blocks {
                true => layouts(graph, order.codes),
                false => vec![Layout::Rows; graph.inputs().len()],
            },
            current: HashMap::new(),
            placed,
            kernels: vec![],
            steps: vec![],
            weights: vec![],
            temps: vec![],
        }
    }

    /// Makes the step that computes `v`, unless it is a view, an input or known at compile time.
    pub fn visit(&mut self, v: Value) -> Result<(), ScheduleError> {
        let Node::Op { op, args } = self.graph.node(v) else {
            return Ok(());
        };
        if self.open[v.index()] || self.weights_only[v.index()] {
            return Ok(());
        }
        match op {
            Op::Map(_) => self.map(v, args[0], args[1]),
            Op::Gemm(_) => self.gemm(v, args),
            Op::Attention(a) => self.attention(v, a, args),
            _ if is_view(op) => Ok(()),
            Op::Const(_) => Ok(()),
            _ => Err(self.error(v, format!("no kernel computes {} here", op.kind().name()))),
        }
    }

    /// A buffer of its own for an output of the graph: copies what is an input, a view of something else, known at
    /// compile time, or given out before. A state that was updated in place stays where it is.
    pub fn output(&mut self, v: Value, given: &[Buffer]) -> Result<Buffer, ScheduleError> {
        if let Some(buffer) = self.placed.get(&v)
            && self.graph.as_input(v).is_none()
            && !given.contains(buffer)
            && self.current.get(buffer).is_none_or(|now| *now == v)
        {
            return Ok(*buffer);
        }
        if let Some(op @ Op::Const(_)) = self.graph.op(v) {
            let mut body = Graph::new();
            let literal = body
                .add(op.clone(), &[])
                .map_err(|e| self.error(v, e.to_string()))?;
            body.outputs = vec![literal];
            let ty = self.graph.ty(v).clone();
            return Ok(self
                .write(v, "constant", body, vec![], &ty, Round::None)?
                .0
                .buffer);
        }
        let read = self.operand(v)?;
        if let Buffer::Temp(_) = read.0.buffer
            && read.0.offset == 0
            && read.1.is_contiguous()
            && self.temps_numel(read.0.buffer) == Some(self.graph.ty(v).numel())
            && !given.contains(&read.0.buffer)
        {
            return Ok(read.0.buffer);
        }
        let ty = self.graph.ty(v).clone();
        Ok(self.copy(v, read, &ty)?.0.buffer)
    }

    fn temps_numel(&self, buffer: Buffer) -> Option<Dim> {
        match buffer {
            Buffer::Temp(i) => Some(self.temps[i].ty.numel()),
            _ => None,
        }
    }

    /// The elements of an operand one after another, broadcast to a type.
    fn copy(
        &mut self,
        v: Value,
        read: (Operand, View),
        ty: &Type,
    ) -> Result<(Operand, View), ScheduleError> {
        let mut body = Graph::new();
        let x = body.input("x", Role::Data, self.graph.ty(v).clone());
        body.outputs = vec![x];
        self.write(v, "copy", body, vec![read], ty, Round::None)
    }

    /// A step that writes a value of its own.
    fn write(
        &mut self,
        v: Value,
        label: &str,
        body: Graph,
        mut operands: Vec<(Operand, View)>,
        ty: &Type,
        round: Round,
    ) -> Result<(Operand, View), ScheduleError> {
        let view = self.contiguous(v, ty)?;
        let codec = match round {
            Round::Codes(codec) => codec,
            Round::None | Round::Values(_) => Codec::Plain(ty.dtype),
        };
        let ty = ty.clone();
        self.temps.push(Temp { ty, codec });
        let buffer = Buffer::Temp(self.temps.len() - 1);
        let out = (Operand { buffer, offset: 0 }, view);
        operands.push(out.clone());
        let template = Template::Map {
            body,
            scatter: None,
            round,
        };
        self.step(label.into(), template, operands);
        Ok(out)
    }

    /// The operand, copied to where its rows are dense if a kernel could not address it otherwise.
    fn dense(&mut self, v: Value) -> Result<(Operand, View), ScheduleError> {
        let read = self.operand(v)?;
        let ty = self.graph.ty(v).clone();
        let dense = self.copy(v, read, &ty)?;
        self.placed.insert(v, dense.0.buffer);
        Ok(dense)
    }

    fn map(&mut self, v: Value, x: Value, body: Value) -> Result<(), ScheduleError> {
        let (root, scatter) = match (self.graph.op(body), self.graph.args(body)) {
            (Some(Op::Scatter(_)), [table, ids, rows]) => (*rows, Some((*table, *ids))),
            _ => (body, None),
        };
        if self.rounds(body) && self.stored(v, body).dtype == DType::BF16 {
            // What was rounded when it was stored.
            let (operand, view) = self.operand(x)?;
            let whole = operand.offset == 0 && view.is_contiguous();
            if view.dtype == DType::BF16 && whole && matches!(operand.buffer, Buffer::Temp(_)) {
                self.placed.insert(v, operand.buffer);
                return Ok(());
            }
        }
        let label = self.label(v, root);
        let rounded = self.round(v, root);
        let (root, round) = rounded.unwrap_or((root, Round::None));
        let mut graph = Graph::new();
        let acc = [graph.input("acc.0", Role::Data, self.graph.ty(x).clone())];
        let mut reads = vec![Read::of(x)];
        let out = self.copy_body(&mut graph, root, &acc, Some(x), &mut reads)?;
        graph.outputs = vec![out];
        let body = graph
            .lower(|_| false)
            .map_err(|e| self.error(v, e.to_string()))?;
        let mut operands = reads
            .iter()
            .map(|r| self.read(r))
            .collect::<Result<Vec<_>, _>>()?;
        match scatter {
            Some((table, ids)) => self.scatter(v, [table, ids], label, body, operands, round),
            None => {
                let ty = self.stored(v, root);
                let written =
                    self.write(v, &label, body, std::mem::take(&mut operands), &ty, round)?;
                self.placed.insert(v, written.0.buffer);
                Ok(())
            }
        }
    }

    /// Replaces rows of a state by what the body computes.
    fn scatter(
        &mut self,
        v: Value,
        [table, ids]: [Value; 2],
        label: String,
        mut body: Graph,
        mut operands: Vec<(Operand, View)>,
        mut round: Round,
    ) -> Result<(), ScheduleError> {
        let (state, view) = self.operand(table)?;
        let is_state = matches!(state.buffer, Buffer::Input(i)
            if self.graph.as_input(self.graph.inputs()[i]).is_some_and(|(_, r)| r == Role::State));
        let whole = view.layout != Layout::Rows || view.is_contiguous();
        if !is_state || state.offset != 0 || !whole {
            let why = "rows are scattered into something that is no state";
            return Err(self.error(v, why.into()));
        }
        let coded = view.layout.coded();
        if let (true, Round::Values(codec)) = (coded, round) {
            round = Round::Codes(codec);
        }
        let depends = operands.iter().any(|(o, _)| o.buffer == state.buffer);
        if depends || round != Round::None && !coded {
            // The rows depend on the state that they go into: all are computed before any is replaced. Rows that are
            // rounded, but not stored as integers, are so in memory of the step.
            let ty = body.ty(body.outputs[0]).clone();
            let rows = self.write(v, &label, body, operands, &ty, round)?;
            round = Round::None;
            body = Graph::new();
            let x = body.input("x", Role::Data, ty);
            body.outputs = vec![x];
            operands = vec![rows];
        }
        let index = operands.len();
        body.input("rows", Role::Data, self.graph.ty(ids).clone());
        operands.push(self.operand(ids)?);
        operands.push((state, view));
        self.placed.insert(v, state.buffer);
        self.current.insert(state.buffer, v);
        let template = Template::Map {
            body,
            scatter: Some(index),
            round,
        };
        self.step(label, template, operands);
        Ok(())
    }

    fn gemm(&mut self, v: Value, args: &[Value]) -> Result<(), ScheduleError> {
        let [x, weights @ .., body] = args else {
            return Err(self.error(v, "gemm without weights".into()));
        };
        let mut graph = Graph::new();
        let mut product = self.graph.ty(v).clone();
        product.dtype = DType::F32;
        let acc: Vec<Value> = (0..weights.len())
            .map(|i| graph.input(format!("acc.{i}"), Role::Data, product.clone()))
            .collect();
        let mut reads = vec![];
        let out = self.copy_body(&mut graph, *body, &acc, None, &mut reads)?;
        graph.outputs = vec![out];
        let lowered = graph
            .lower(|_| false)
            .map_err(|e| self.error(v, e.to_string()))?;
        let (mut x_operand, x_view) = self.operand(*x)?;
        let x_view = match self.rows(v, &x_view) {
            Ok(rows) => rows,
            Err(_) => {
                let (operand, dense) = self.dense(*x)?;
                x_operand = operand;
                self.rows(v, &dense)?
            }
        };
        let mut operands = vec![(x_operand, x_view)];
        let codec = self.common_storage(weights);
        for w in weights {
            operands.push(self.weight(v, *w, codec, self.order.products.of(codec))?);
        }
        let rows_codec = match x_operand.buffer {
            Buffer::Temp(t) => self.temps[t].codec,
            _ => Codec::Plain(DType::F32),
        };
        let rows = self.graph.ty(v).rows();
        for r in &reads {
            let (operand, view) = self.read(r)?;
            operands.push(match self.row_broadcast(v, view.clone(), &rows) {
                Ok(flat) => (operand, flat),
                Err(_) => {
                    let whole = Type::new(self.graph.ty(r.value).dtype, product.shape.clone());
                    let (operand, whole) = self.copy(r.value, (operand, view), &whole)?;
                    (operand, self.row_broadcast(v, whole, &rows)?)
                }
            });
        }
        let columns = product
            .last()
            .known()
            .ok_or_else(|| self.error(v, "symbolic columns".into()))?;
        let ty = self.stored(v, *body);
        let buffer = self.temp(v, &ty);
        let flat = Type::new(ty.dtype, [rows, columns.into()]);
        operands.push((Operand { buffer, offset: 0 }, self.contiguous(v, &flat)?));
        let template = Template::Gemm {
            body: lowered,
            weights: weights.len(),
            columns,
            codec,
            rows: rows_codec,
        };
        let label = self.label(v, *body);
        self.step(label, template, operands);
        Ok(())
    }

    fn attention(
        &mut self,
        v: Value,
        a: &ops::Attention,
        args: &[Value],
    ) -> Result<(), ScheduleError> {
        let mut operands = vec![];
        for (i, arg) in args.iter().enumerate() {
            let (operand, view) = self.operand(*arg)?;
            let addressable = if i < 3 {
                let narrow = i > 0 || self.order.narrow.attention();
                let float = view.dtype == DType::F32 || narrow && view.dtype.is_float();
                view.layout != Layout::Rows || float && side_by_side(&view)
            } else {
                view.strides == [1]
            };
            operands.push(if addressable {
                (operand, view)
            } else {
                self.dense(*arg)?
            });
        }
        if let [_, (_, k), (_, v), ..] = &operands[..]
            && k.strides[0] != v.strides[0]
        {
            // One stride serves keys and values.
            for i in [1, 2] {
                if !operands[i].1.is_contiguous() {
                    operands[i] = self.dense(args[i])?;
                }
            }
        }
        let mut ty = self.graph.ty(v).clone();
        if self.order.narrow.attention() && self.rounded(v) {
            ty.dtype = DType::BF16;
        }
        let buffer = self.temp(v, &ty);
        operands.push((Operand { buffer, offset: 0 }, self.contiguous(v, &ty)?));
        self.step("attention".into(), Template::Attention(a.clone()), operands);
        Ok(())
    }

    /// The operand behind a view of a value, which is copied if strides cannot say the view.
    pub(super) fn seen_through(
        &mut self,
        v: Value,
        op: &Op,
    ) -> Result<(Operand, View), ScheduleError> {
        let (mut operand, mut view) = self.operand(v)?;
        let mut seen = view.apply(op);
        if seen.is_none() {
            (operand, view) = self.dense(v)?;
            seen = view.apply(op);
        }
        let (seen, shift) = seen
            .ok_or_else(|| self.error(v, format!("{} of {view:?} is no view", op.kind().name())))?;
        operand.offset += shift * view.dtype.bytes() as i64;
        Ok((operand, seen))
    }

    /// The operand behind a closed value: views are followed to what holds the bytes.
    pub(super) fn operand(&mut self, v: Value) -> Result<(Operand, View), ScheduleError> {
        if let Some(buffer) = self.placed.get(&v) {
            if self.current.get(buffer).is_some_and(|now| *now != v) {
                let why = "a state is read after rows of it were replaced: read it before, or read what replaced it";
                return Err(self.error(v, why.into()));
            }
            let operand = Operand {
                buffer: *buffer,
                offset: 0,
            };
            let ty = self.graph.ty(v);
            let view = match buffer {
                Buffer::Input(i) => View::state(ty, self.layouts[*i]),
                Buffer::Temp(t) => {
                    let stored = match self.temps[*t].codec {
                        Codec::Plain(dtype) => dtype,
                        Codec::Grouped { .. } => ty.dtype,
                    };
                    View::contiguous(&Type {
                        dtype: stored,
                        shape: ty.shape.clone(),
                    })
                }
                _ => View::contiguous(ty),
            };
            return Ok((operand, view.ok_or_else(|| self.symbolic(v, ty))?));
        }
        if self.weights_only[v.index()] {
            let ty = self.graph.ty(v).dtype;
            // What kernels address element by element has no groups.
            let dtype = self.storage[v.index()].dtype().unwrap_or(ty);
            return self.weight(v, v, Codec::Plain(dtype), Packing::Rows);
        }
        match self.graph.node(v) {
            Node::Op { op, args } if is_view(op) => self.seen_through(args[0], op),
            _ => Err(self.error(v, "is needed in memory but nothing computes it".into())),
        }
    }

    fn weight(
        &mut self,
        user: Value,
        value: Value,
        codec: Codec,
        packing: Packing,
    ) -> Result<(Operand, View), ScheduleError> {
        let term = WeightTerm {
            value,
            codec,
            packing,
        };
        let index = self
            .weights
            .iter()
            .position(|w| *w == term)
            .unwrap_or_else(|| {
                self.weights.push(term);
                self.weights.len() - 1
            });
        let mut ty = self.graph.ty(value).clone();
        if let Codec::Plain(dtype) = codec {
            ty.dtype = dtype;
        }
        let operand = Operand {
            buffer: Buffer::Weight(index),
            offset: 0,
        };
        Ok((operand, self.contiguous(user, &ty)?))
    }

    fn temp(&mut self, v: Value, ty: &Type) -> Buffer {
        self.temps.push(Temp {
            ty: ty.clone(),
            codec: Codec::Plain(ty.dtype),
        });
        let buffer = Buffer::Temp(self.temps.len() - 1);
        self.placed.insert(v, buffer);
        buffer
    }

    fn contiguous(&self, v: Value, ty: &Type) -> Result<View, ScheduleError> {
        View::contiguous(ty).ok_or_else(|| self.symbolic(v, ty))
    }

    fn symbolic(&self, v: Value, ty: &Type) -> ScheduleError {
        self.error(v, format!("{ty} has symbolic inner axes"))
    }

    /// `[.., K]` seen as rows.
    fn rows(&self, v: Value, view: &View) -> Result<View, ScheduleError> {
        let ty = Type {
            dtype: view.dtype,
            shape: view.shape.clone(),
        };
        let flat = ops::Reshape {
            shape: vec![ty.rows(), ty.last()],
        };
        match view.apply(&flat.into()) {
            Some((flat, _)) if flat.strides[1] == 1 || flat.shape[1].known() == Some(1) => Ok(flat),
            _ => Err(self.error(
                v,
                format!("reads rows of {view:?}, which are not evenly spaced"),
            )),
        }
    }

    /// An operand of a gemm's body as `[M or 1, N or 1]`.
    fn row_broadcast(&self, v: Value, view: View, rows: &Dim) -> Result<View, ScheduleError> {
        let ty = Type {
            dtype: view.dtype,
            shape: view.shape.clone(),
        };
        if ty.rows() == *rows || ty.rows().known() == Some(1) {
            let shape = vec![ty.rows(), ty.last()];
            if let Some((mut flat, _)) = view.apply(&ops::Reshape { shape }.into()) {
                for (d, s) in flat.shape.iter().zip(&mut flat.strides) {
                    if d.known() == Some(1) {
                        *s = 0;
                    }
                }
                return Ok(flat);
            }
        }
        Err(self.error(v, format!("{ty} does not broadcast over {rows} rows")))
    }

    fn step(&mut self, label: String, template: Template, operands: Vec<(Operand, View)>) {
        let (operands, views) = operands.into_iter().unzip();
        let kernel = Kernel {
            template,
            views,
            inlined: vec![],
            elided: false,
        };
        let index = self
            .kernels
            .iter()
            .position(|k| *k == kernel)
            .unwrap_or_else(|| {
                self.kernels.push(kernel);
                self.kernels.len() - 1
            });
        self.steps.push(Step {
            label,
            kernel: index,
            operands,
        });
    }

    /// Names of the ops in a kernel, outermost first.
    fn label(&self, v: Value, body: Value) -> String {
        let mut names = vec![self.graph.op(v).map_or("input", |o| o.kind().name())];
        let mut at = body;
        while let Some(op) = self.graph.op(at) {
            if op.kind() == OpKind::Acc {
                break;
            }
            names.push(op.kind().name());
            match self.graph.args(at).iter().find(|a| self.open[a.index()]) {
                Some(next) => at = *next,
                None => break,
            }
        }
        names[1..].reverse();
        names.join(" ")
    }

    pub(super) fn error(&self, v: Value, why: String) -> ScheduleError {
        ScheduleError::Kernel {
            value: v.index(),
            ty: self.graph.ty(v).clone(),
            why,
        }
    }
}

/// Whether rows of `[T, H, D]` are dense from head to head, as attention reads them.
fn side_by_side(view: &View) -> bool {
    let [_, heads, head] = &view.shape[..] else {
        return false;
    };
    let next_head = heads.known() == Some(1) || Some(view.strides[1]) == head.known();
    let dense = head.known() == Some(1) || view.strides[2] == 1;
    next_head && dense
}

/// Whether the op only changes how bytes are addressed.
pub(super) fn is_view(op: &Op) -> bool {
    op.kind().class() == ir::Class::View || op.kind() == OpKind::Transpose
}
