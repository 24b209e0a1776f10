//! A program in the making: calls, and the graphs they use, with every weight found in the checkpoint and checked
//! against the config as it is asked for. Knows names, shapes and dtypes; not what a model computes.

use super::ModelError;
use crate::checkpoint::{Checkpoint, CheckpointError, Config, TensorView};
use ir::{
    Call, Constant, DType, Dim, Float, Graph, Name, Op, Operand, Program, Role, Sym, Type, Value,
    feed,
    ops::{Add, Cast, Mul},
};
use std::collections::BTreeSet;

/// Most rows that a key/value cache may have.
const MAX_ROWS: u32 = 1 << 28;

/// Ends of the names of buffers that old checkpoints store beside a layer's weights; never read.
const BUFFERS: [&str; 6] = [
    ".rotary_emb.inv_freq",
    ".maybe_rotary.inv_freq",
    ".attention.bias",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.masked_bias",
];

/// A size that the config implies, and how the config says so.
#[derive(Clone, Debug)]
pub(super) struct Size {
    /// The number.
    pub(super) n: usize,
    /// Such as `hidden_size`.
    key: String,
}

impl Size {
    pub(super) fn new(n: usize, key: impl Into<String>) -> Size {
        Size { n, key: key.into() }
    }

    /// The integer at `key`.
    pub(super) fn read(config: &Config, key: &str) -> Result<Size, CheckpointError> {
        Ok(Size::new(config.usize(key)?, key))
    }

    /// `key = n`, for messages.
    pub(super) fn reason(&self) -> String {
        format!("{} = {}", self.key, self.n)
    }
}

/// See the module's text.
pub(super) struct Draft<'c> {
    /// Where weights are found.
    pub(super) checkpoint: &'c Checkpoint,
    /// Prefix of the tensors that all heads share, which checkpoints of the bare model leave out.
    backbone: &'static str,
    bare: bool,
    /// Most tokens of a step, and most whose outputs are wanted.
    most: [u32; 2],
    /// Whether weights of projections are stored `[in, out]`.
    transposed: bool,
    /// What the names of layers' tensors start with, the layer's number apart.
    stems: BTreeSet<String>,
    program: Program,
}

impl<'c> Draft<'c> {
    /// A program without calls, of steps of at most so many tokens, and so many whose outputs are wanted. Tensors whose
    /// names start with `backbone` may go without it.
    pub(super) fn new(
        checkpoint: &'c Checkpoint,
        backbone: &'static str,
        most: [usize; 2],
    ) -> Self {
        let inner = format!(".{backbone}");
        let has = |name: &str| name.starts_with(backbone) || name.contains(&inner);
        Draft {
            checkpoint,
            backbone,
            bare: !checkpoint.names().any(has),
            most: most.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            transposed: false,
            stems: BTreeSet::new(),
            program: Program::default(),
        }
    }

    /// The same of a checkpoint that stores weights of projections as `[in, out]`, if it does.
    pub(super) fn transposed(self, transposed: bool) -> Self {
        Draft { transposed, ..self }
    }

    /// The name that a tensor has in this checkpoint, with or without the backbone's prefix.
    fn local<'a>(&self, name: &'a str) -> &'a str {
        let stripped = name.strip_prefix(self.backbone).filter(|_| self.bare);
        stripped.unwrap_or(name)
    }

    /// The checkpoint's tensor of this name, if it has one.
    pub(super) fn find(&self, name: &str) -> Result<Option<TensorView<'c>>, ModelError> {
        Ok(self.checkpoint.find(self.local(name))?)
    }

    /// Whether the checkpoint has a tensor of this name.
    pub(super) fn has(&self, name: &str) -> Result<bool, ModelError> {
        Ok(self.find(name)?.is_some())
    }

    /// Begins a call of a new graph; names of weights are relative to `scope`.
    pub(super) fn block(&mut self, scope: impl Into<String>) -> Block<'_, 'c> {
        Block {
            draft: self,
            scope: scope.into(),
            graph: Graph::new(),
            args: vec![],
            updates: vec![],
        }
    }

    /// Begins layer `index` of those whose tensors are called `stem`, number, point, rest.
    pub(super) fn layer(&mut self, stem: &str, index: usize) -> Block<'_, 'c> {
        self.stems.insert(self.local(stem).to_string());
        self.block(format!("{stem}{index}."))
    }

    /// Makes a result an output of the program.
    pub(super) fn output(&mut self, name: &str, operand: Operand) {
        self.program.outputs.insert(name.into(), operand);
    }

    /// The program.
    ///
    /// # Errors
    /// A layer of the checkpoint has a tensor that was not asked for.
    pub(super) fn finish(self) -> Result<Program, ModelError> {
        let unplaced = self.checkpoint.names().find(|name| {
            let inside = |stem: &String| {
                name.find(stem.as_str())
                    .is_some_and(|at| at == 0 || name[..at].ends_with('.'))
            };
            !self.program.weights.contains_key(*name)
                && self.stems.iter().any(inside)
                && !BUFFERS.iter().any(|ending| name.ends_with(ending))
        });
        match unplaced {
            None => Ok(self.program),
            Some(name) => Err(ModelError::Unplaced {
                file: self.checkpoint.tensor(name)?.file.to_path_buf(),
                tensor: name.to_string(),
            }),
        }
    }

    fn sym(&self, name: &str) -> Dim {
        let max = match name {
            feed::R => MAX_ROWS,
            feed::T => self.most[0],
            _ => self.most[1],
        };
        (&Sym::new(name, max)).into()
    }
}

/// A graph in the making, and the call that will use it.
pub(super) struct Block<'d, 'c> {
    draft: &'d mut Draft<'c>,
    scope: String,
    graph: Graph,
    args: Vec<Operand>,
    updates: Vec<(Value, Name)>,
}

impl Block<'_, '_> {
    fn input(&mut self, name: &str, role: Role, ty: Type, operand: Operand) -> Value {
        let value = self.graph.input(name, role, ty);
        if self.args.len() < self.graph.inputs().len() {
            self.args.push(operand);
        }
        value
    }

    /// From now on names of weights are relative to `scope`.
    pub(super) fn rescope(&mut self, scope: &str) {
        self.scope = scope.into();
    }

    /// One of the inputs that a session feeds at each step, by its name in [`feed`].
    pub(super) fn feed(&mut self, name: &str) -> Value {
        let count = match name {
            feed::SELECT => feed::L,
            feed::STARTS | feed::ENDS => feed::B,
            _ => feed::T,
        };
        let ty = Type::new(DType::I32, [self.draft.sym(count)]);
        self.draft.program.inputs.insert(name.into(), ty.clone());
        self.input(name, Role::Data, ty, Operand::Input(name.into()))
    }

    /// Whether weights of projections are stored `[in, out]`.
    pub(super) fn transposed(&self) -> bool {
        self.draft.transposed
    }

    /// The patches of images that a session feeds, `width` numbers each.
    pub(super) fn patches(&mut self, width: usize) -> Value {
        let name = feed::PATCHES;
        let ty = Type::new(DType::F32, [self.draft.sym(feed::T), width.into()]);
        self.draft.program.inputs.insert(name.into(), ty.clone());
        self.input(name, Role::Data, ty, Operand::Input(name.into()))
    }

    /// A result of an earlier call, known in this graph as `name`.
    pub(super) fn take(&mut self, name: &str, operand: &Operand) -> Value {
        let ty = self.draft.program.ty(operand);
        let ty = ty.expect("operands come from `Block::finish`").clone();
        self.input(name, Role::Data, ty, operand.clone())
    }

    /// A tensor of the checkpoint in f32, which must have the shape that the config implies.
    pub(super) fn weight(&mut self, name: &str, shape: &[&Size]) -> Result<Value, ModelError> {
        let full = format!("{}{name}", self.scope);
        let dims: Vec<usize> = shape.iter().map(|s| s.n).collect();
        let mut reasons: Vec<String> = vec![];
        for s in shape {
            let reason = s.reason();
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        let name_there = self.draft.local(&full);
        let tensor = self
            .draft
            .checkpoint
            .expect(name_there, &dims, &reasons.join(", "))?;
        let dtype = tensor
            .float()
            .expect("`Checkpoint::expect` gives floats only");
        let ty = Type::new(dtype, dims);
        let source: Name = tensor.name.into();
        self.draft
            .program
            .weights
            .insert(source.clone(), ty.clone());
        let stored = self.input(name, Role::Weight, ty, Operand::Weight(source));
        if dtype == DType::F32 {
            return Ok(stored);
        }
        self.op(Cast { to: DType::F32 }, &[stored])
    }

    /// A tensor called so in full, whatever the scope; else as [`Block::weight`].
    pub(super) fn shared_weight(
        &mut self,
        name: &str,
        shape: &[&Size],
    ) -> Result<Value, ModelError> {
        let scope = std::mem::take(&mut self.scope);
        let weight = self.weight(name, shape);
        self.scope = scope;
        weight
    }

    /// Numbers that the config implies, row-major in an array of this shape.
    pub(super) fn constant(&mut self, name: &str, shape: &[usize], data: &[f64]) -> Value {
        let ty = Type::new(DType::F32, shape.iter().copied());
        let constant = Constant {
            ty: ty.clone(),
            data: data
                .iter()
                .map(|x| Float::from(DType::F32.round(*x)))
                .collect(),
        };
        self.draft.program.constants.insert(name.into(), constant);
        self.input(name, Role::Weight, ty, Operand::Constant(name.into()))
    }

    /// A scalar.
    pub(super) fn scalar(&mut self, x: f64) -> Value {
        self.graph.constant(x)
    }

    /// This layer's rows of a key/value cache, `f32[R, row..]`, zero at first.
    pub(super) fn state(&mut self, name: &str, row: &[usize]) -> Value {
        let full: Name = format!("{}{name}", self.scope).into();
        let row = row.iter().map(|n| Dim::from(*n));
        let ty = Type::new(DType::F32, [self.draft.sym(feed::R)].into_iter().chain(row));
        self.draft.program.states.insert(full.clone(), ty.clone());
        self.input(name, Role::State, ty, Operand::State(full))
    }

    /// Makes `value` what the state `name` is from now on.
    pub(super) fn update(&mut self, name: &str, value: Value) {
        let full = format!("{}{name}", self.scope).into();
        self.updates.push((value, full));
    }

    /// Adds a node.
    pub(super) fn op(&mut self, op: impl Into<Op>, args: &[Value]) -> Result<Value, ModelError> {
        Ok(self.graph.add(op, args)?)
    }

    /// `a + b`.
    pub(super) fn sum(&mut self, a: Value, b: Value) -> Result<Value, ModelError> {
        self.op(Add, &[a, b])
    }

    /// `a * b`.
    pub(super) fn product(&mut self, a: Value, b: Value) -> Result<Value, ModelError> {
        self.op(Mul, &[a, b])
    }

    /// The value's type.
    pub(super) fn ty(&self, v: Value) -> &Type {
        self.graph.ty(v)
    }

    /// Length of the last axis, to check the weights that it meets.
    pub(super) fn width(&self, v: Value) -> Size {
        let n = self.ty(v).last().size();
        Size::new(n.unwrap_or(0), "width of its input")
    }

    /// Ends the graph, which takes this name unless an equal one has another, and calls it. Returns where its outputs
    /// are found.
    pub(super) fn finish(mut self, name: &str, outputs: &[Value]) -> Vec<Operand> {
        let updates = self.updates.iter().enumerate();
        let updates = updates.map(|(i, (_, state))| (outputs.len() + i, state.clone()));
        let call = Call {
            graph: Name::default(),
            args: self.args,
            updates: updates.collect(),
        };
        self.graph.outputs = outputs.to_vec();
        self.graph
            .outputs
            .extend(self.updates.iter().map(|(value, _)| *value));
        let program = &mut self.draft.program;
        let graph = program.graph(name, self.graph);
        program.calls.push(Call { graph, ..call });
        let call = program.calls.len() - 1;
        (0..outputs.len())
            .map(|output| Operand::Result { call, output })
            .collect()
    }
}
