//! Random well-typed graphs and inputs for property tests, the same for the same seed everywhere. Knows no test.

use crate::{
    DType, Dim, Element, Float, Graph, Op, OpKind, Role, Sym, Tensor, Type, Value, feed, ops,
};

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Source(u64);

impl Source {
    /// Numbers that follow from `seed`.
    pub fn new(seed: u64) -> Source {
        Source(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// An index below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// A number in `-1..1`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// Largest value of the symbol of rows.
pub const MAX_ROWS: u32 = 32;

/// Widths of the values: mostly no multiples of a vector.
const WIDTHS: [i64; 8] = [1, 3, 5, 7, 8, 12, 16, 17];

/// A graph of about `size` random steps over rows `[T, N]`, each step an op or a few; it has data, weight and state
/// inputs, symbols `T` (rows, at most [`MAX_ROWS`]), `L` (selected rows) and `R` (rows of a state, at least `T`), and
/// values that stay near 1 for the inputs that [`tensors`] makes.
pub fn graph(seed: u64, size: usize) -> Graph {
    let mut builder = Builder {
        random: Source::new(seed),
        g: Graph::new(),
        pool: vec![],
        inputs: 0,
    };
    builder.data();
    for _ in 0..size {
        let a = builder.any();
        builder.step(a);
    }
    builder.finish()
}

/// A value in the making: its rank is 2, and `bound` bounds what it holds.
#[derive(Clone)]
struct Row {
    v: Value,
    rows: Dim,
    width: i64,
    bound: f64,
}

struct Builder {
    random: Source,
    g: Graph,
    pool: Vec<Row>,
    inputs: usize,
}

fn symbol(name: &str) -> Dim {
    (&Sym::new(name, if name == feed::L { 4 } else { MAX_ROWS })).into()
}

impl Builder {
    fn add(&mut self, op: impl Into<Op>, args: &[Value]) -> Value {
        let added = self.g.add(op, args);
        added.expect("the generator checks types before it adds")
    }

    fn reshape(&mut self, v: Value, shape: &[Dim]) -> Value {
        let shape = shape.to_vec();
        self.add(ops::Reshape { shape }, &[v])
    }

    fn input(&mut self, role: Role, dtype: DType, shape: &[Dim]) -> Value {
        let name = match role {
            Role::Data => "x",
            Role::Weight => "layer.weight",
            Role::State => "state",
        };
        self.inputs += 1;
        let name = format!("{name}.{}", self.inputs);
        self.g
            .input(name, role, Type::new(dtype, shape.iter().cloned()))
    }

    /// An f32 weight, stored in f32, or in a narrower type and widened.
    fn weight(&mut self, shape: &[Dim]) -> Value {
        match self
            .random
            .pick(&[DType::F32, DType::F32, DType::BF16, DType::F16])
        {
            DType::F32 => self.input(Role::Weight, DType::F32, shape),
            narrow => {
                let w = self.input(Role::Weight, narrow, shape);
                self.add(ops::Cast { to: DType::F32 }, &[w])
            }
        }
    }

    fn indices(&mut self, n: Dim) -> Value {
        self.input(Role::Data, DType::I32, &[n])
    }

    fn data(&mut self) -> Row {
        let width = self.random.pick(&WIDTHS);
        let rows = symbol(feed::T);
        let v = self.input(Role::Data, DType::F32, &[rows.clone(), width.into()]);
        self.keep(v, rows, width, 1.0)
    }

    /// Puts a value into the pool, bent back when it may grow.
    fn keep(&mut self, v: Value, rows: Dim, width: i64, bound: f64) -> Row {
        let (v, bound) = match bound > 8.0 {
            false => (v, bound),
            true if self.random.below(2) == 0 => (self.add(ops::Tanh, &[v]), 1.0),
            true => {
                let scale = self.g.constant(1.0 / bound.ceil());
                (self.add(ops::Mul, &[v, scale]), 1.0)
            }
        };
        let row = Row {
            v,
            rows,
            width,
            bound,
        };
        self.pool.push(row.clone());
        row
    }

    fn any(&mut self) -> Row {
        // Recent values more often, so that chains grow long.
        let recent = self.pool.len().min(4);
        match self.random.below(3) {
            0 => self.random.pick(&self.pool.clone()),
            _ => self.pool[self.pool.len() - 1 - self.random.below(recent)].clone(),
        }
    }

    /// Another value of the same shape, `a` itself if there is none.
    fn like(&mut self, a: &Row) -> Row {
        let same = |b: &&Row| b.rows == a.rows && b.width == a.width;
        let alike: Vec<Row> = self.pool.iter().filter(same).cloned().collect();
        self.random.pick(&alike)
    }

    fn step(&mut self, a: Row) -> Row {
        match self.random.below(16) {
            0..=2 => self.unary(a),
            3..=4 => self.binary(a),
            5 => self.row_wise(a),
            6..=7 => self.product(a),
            8 => self.view(a),
            9 => self.gather(a),
            10 => self.norm(a),
            11 => self.heads(a),
            12 => self.scatter(a),
            13 => self.cached(a),
            14 => self.product_of_few_bits(a),
            _ => self.data(),
        }
    }

    fn unary(&mut self, a: Row) -> Row {
        let squash: [Op; 5] = [
            ops::Tanh.into(),
            ops::Sin.into(),
            ops::Cos.into(),
            ops::Erf.into(),
            ops::Sigmoid.into(),
        ];
        let pass: [Op; 4] = [
            ops::Silu.into(),
            ops::Relu.into(),
            ops::Gelu.into(),
            ops::GeluTanh.into(),
        ];
        let (v, bound) = match self.random.below(4) {
            0 => (self.random.pick(&squash), 1.0),
            1 | 2 => (self.random.pick(&pass), a.bound),
            _ => {
                // e^x and 1/sqrt(x) where they are tame.
                let one = self.g.constant(1.0);
                let v = match self.random.below(2) {
                    0 => {
                        let low = self.add(ops::Min, &[a.v, one]);
                        self.add(ops::Exp, &[low])
                    }
                    _ => {
                        let square = self.add(ops::Mul, &[a.v, a.v]);
                        let positive = self.add(ops::Add, &[square, one]);
                        self.add(ops::Rsqrt, &[positive])
                    }
                };
                return self.keep(v, a.rows, a.width, 3.0);
            }
        };
        let v = self.add(v, &[a.v]);
        self.keep(v, a.rows, a.width, bound)
    }

    fn binary(&mut self, a: Row) -> Row {
        // The other side: a like value, a vector to broadcast, a number.
        let (b, bound) = match self.random.below(4) {
            0 | 1 => {
                let b = self.like(&a);
                (b.v, b.bound)
            }
            2 => (self.weight(&[a.width.into()]), 1.0),
            _ => {
                let x = (self.random.unit() * 8.0).round() / 4.0;
                (self.g.constant(x), 2.0)
            }
        };
        let (v, bound) = match self.random.below(7) {
            0 => (self.add(ops::Sub, &[b, a.v]), a.bound + bound),
            1 => (self.add(ops::Mul, &[a.v, b]), a.bound * bound),
            2 => (self.add(ops::Max, &[a.v, b]), a.bound.max(bound)),
            3 => {
                let square = self.add(ops::Mul, &[b, b]);
                let one = self.g.constant(1.0);
                let positive = self.add(ops::Add, &[one, square]);
                (self.add(ops::Div, &[a.v, positive]), a.bound)
            }
            4 => {
                let less = self.add(ops::Lt, &[a.v, b]);
                let v = self.add(ops::Select, &[less, b, a.v]);
                (v, a.bound.max(bound))
            }
            5 => (self.add(ops::SwiGlu, &[a.v, b]), a.bound * bound),
            _ => (self.add(ops::Add, &[a.v, b]), a.bound + bound),
        };
        self.keep(v, a.rows, a.width, bound)
    }

    fn row_wise(&mut self, a: Row) -> Row {
        let (v, bound) = match self.random.below(3) {
            0 => (self.add(ops::Softmax, &[a.v]), 1.0),
            1 => {
                let max = self.add(ops::Amax, &[a.v]);
                (self.add(ops::Sub, &[a.v, max]), 2.0 * a.bound)
            }
            _ => {
                let sum = self.add(ops::Sum, &[a.v]);
                let scale = self.g.constant(1.0 / a.width as f64);
                let mean = self.add(ops::Mul, &[sum, scale]);
                (self.add(ops::Add, &[a.v, mean]), 2.0 * a.bound)
            }
        };
        self.keep(v, a.rows, a.width, bound)
    }

    fn norm(&mut self, a: Row) -> Row {
        // A large eps keeps nearly constant rows well conditioned.
        let eps = Float::from(self.random.pick(&[1e-3, 0.1]));
        let rms = self.random.below(2) == 0;
        let op: Op = match rms {
            true => ops::RmsNorm { eps }.into(),
            false => ops::LayerNorm { eps }.into(),
        };
        let mut v = self.add(op, &[a.v]);
        if self.random.below(2) == 0 {
            let gain = self.weight(&[a.width.into()]);
            v = self.add(ops::Mul, &[v, gain]);
        }
        if !rms && self.random.below(2) == 0 {
            let bias = self.weight(&[a.width.into()]);
            v = self.add(ops::Add, &[v, bias]);
        }
        self.keep(v, a.rows, a.width, (a.width as f64).sqrt() + 1.0)
    }

    fn product(&mut self, a: Row) -> Row {
        let width = self.random.pick(&WIDTHS);
        let mut v = match self.random.below(3) {
            0 => {
                let w = self.weight(&[a.width.into(), width.into()]);
                self.add(ops::MatMul, &[a.v, w])
            }
            _ => {
                let w = self.weight(&[width.into(), a.width.into()]);
                self.add(ops::Linear, &[a.v, w])
            }
        };
        if self.random.below(2) == 0 {
            let bias = self.weight(&[width.into()]);
            v = self.add(ops::Add, &[v, bias]);
        }
        self.keep(v, a.rows, width, a.bound * a.width as f64 + 1.0)
    }

    /// A product with a weight of few bits, in groups along what is summed.
    fn product_of_few_bits(&mut self, a: Row) -> Row {
        let (deep, width) = (
            self.random.pick(&[32i64, 64, 96]),
            self.random.pick(&WIDTHS),
        );
        let w = self.weight(&[deep.into(), a.width.into()]);
        let wide = self.add(ops::Linear, &[a.v, w]);
        let mut wide = self.add(ops::Tanh, &[wide]);
        if self.random.below(2) == 0 {
            let block = self.random.pick(&[2i64, 8, 32]);
            wide = self.add(ops::Hadamard { block }, &[wide]);
        }
        let w = self.weight(&[width.into(), deep.into()]);
        let few = ops::FakeQuantize {
            element: self.random.pick(&Element::ALL),
            group: 32,
            scale: DType::F16,
        };
        let w = self.add(few, &[w]);
        let v = self.add(ops::Linear, &[wide, w]);
        self.keep(v, a.rows, width, 6.0 * deep as f64 + 1.0)
    }

    fn view(&mut self, a: Row) -> Row {
        match self.random.below(3) {
            0 => {
                let start = self.random.below(a.width as usize) as i64;
                let end = start + 1 + self.random.below((a.width - start) as usize) as i64;
                let part = ops::Slice {
                    axis: 1,
                    start,
                    end,
                };
                let v = self.add(part, &[a.v]);
                self.keep(v, a.rows, end - start, a.bound)
            }
            1 => {
                let b = self.like(&a);
                let v = self.add(ops::Concat { axis: 1 }, &[a.v, b.v]);
                self.keep(v, a.rows, 2 * a.width, a.bound.max(b.bound))
            }
            _ => {
                let (heads, size) = self.split(a.width);
                let apart = [a.rows.clone(), heads.into(), size.into()];
                let v = self.reshape(a.v, &apart);
                let perm = [0, 2, 1].map(Dim::from).to_vec();
                let v = self.add(ops::Transpose { perm }, &[v]);
                let v = self.reshape(v, &[a.rows.clone(), a.width.into()]);
                self.keep(v, a.rows, a.width, a.bound)
            }
        }
    }

    /// Two factors of a width.
    fn split(&mut self, width: i64) -> (i64, i64) {
        let heads: Vec<i64> = (1..=width).filter(|h| width % h == 0).collect();
        let heads = self.random.pick(&heads);
        (heads, width / heads)
    }

    fn gather(&mut self, a: Row) -> Row {
        if self.random.below(2) == 0 {
            let n = symbol(feed::L);
            let ids = self.indices(n.clone());
            let v = self.add(ops::Gather, &[a.v, ids]);
            return self.keep(v, n, a.width, a.bound);
        }
        let (rows, width) = (symbol(feed::T), self.random.pick(&WIDTHS));
        let table = self.weight(&[11.into(), width.into()]);
        let ids = self.indices(rows.clone());
        let v = self.add(ops::Gather, &[table, ids]);
        self.keep(v, rows, width, 1.0)
    }

    /// Attention of the value to itself, perhaps rotated; or means or maxima of intervals of its rows.
    fn heads(&mut self, a: Row) -> Row {
        let rows = a.rows.clone();
        if self.random.below(3) == 0 {
            let n = symbol(feed::L);
            let (lo, hi) = (self.indices(n.clone()), self.indices(n.clone()));
            let v = match self.random.below(2) {
                0 => self.add(ops::MeanRows, &[a.v, lo, hi]),
                _ => self.add(ops::MaxRows, &[a.v, lo, hi]),
            };
            return self.keep(v, n, a.width, a.bound);
        }
        let (heads, size) = self.split(a.width);
        let apart = [rows.clone(), heads.into(), size.into()];
        let mut q = self.reshape(a.v, &apart);
        if size > 1 && self.random.below(2) == 0 {
            let table = [rows.clone(), 1.into(), (size / 2).into()];
            let angle = self.input(Role::Data, DType::F32, &table);
            let (cos, sin) = (self.add(ops::Cos, &[angle]), self.add(ops::Sin, &[angle]));
            q = self.add(ops::Rope, &[q, cos, sin]);
        }
        let k = self.like(&a);
        let k = self.reshape(k.v, &apart);
        let (groups, v) = match self.random.below(2) {
            0 => (heads, self.reshape(a.v, &apart)),
            _ => {
                let one = [rows.clone(), 1.into(), size.into()];
                let first = ops::Slice {
                    axis: 1,
                    start: 0,
                    end: size,
                };
                let first = self.add(first, &[a.v]);
                (1, self.reshape(first, &one))
            }
        };
        let k = match groups == heads {
            true => k,
            false => v,
        };
        let (lo, hi) = (self.indices(rows.clone()), self.indices(rows.clone()));
        let scale = Float::from(1.0 / (size as f64).sqrt());
        let softcap = Float::from(self.random.pick(&[0.0, 0.0, 5.0]));
        let v = self.add(ops::Attention { scale, softcap }, &[q, k, v, lo, hi]);
        let v = self.reshape(v, &[rows.clone(), a.width.into()]);
        self.keep(v, rows, a.width, a.bound)
    }

    /// Attention over keys and values that are put into states, which nothing else reads, perhaps for several heads each,
    /// perhaps rounded.
    fn cached(&mut self, a: Row) -> Row {
        let (rows, (groups, size)) = (a.rows.clone(), self.split(a.width));
        let ids = self.indices(rows.clone());
        let rounding = ops::FakeQuantize {
            element: Element::Q8,
            group: size,
            scale: DType::F32,
        };
        let rounds = self.random.below(3) == 0;
        let states = [0, 1].map(|_| {
            let new = self.like(&a);
            let mut new = self.reshape(new.v, &[rows.clone(), groups.into(), size.into()]);
            if rounds {
                new = self.add(rounding.clone(), &[new]);
            }
            let state = [symbol(feed::R), groups.into(), size.into()];
            let state = self.input(Role::State, DType::F32, &state);
            let state = self.add(ops::Scatter, &[state, ids, new]);
            self.g.outputs.push(state);
            state
        });
        let shared = if a.width > 64 {
            1
        } else {
            self.random.pick(&[1, 2, 3])
        };
        let wide: Vec<Value> = vec![a.v; shared as usize];
        let q = self.add(ops::Concat { axis: 1 }, &wide);
        let q = self.reshape(q, &[rows.clone(), (groups * shared).into(), size.into()]);
        let (lo, hi) = (self.indices(rows.clone()), self.indices(rows.clone()));
        let scale = Float::from(1.0 / (size as f64).sqrt());
        let softcap = Float::from(self.random.pick(&[0.0, 0.0, 5.0]));
        let [k, v] = states;
        let v = self.add(ops::Attention { scale, softcap }, &[q, k, v, lo, hi]);
        let width = a.width * shared;
        let v = self.reshape(v, &[rows.clone(), width.into()]);
        self.keep(v, rows, width, a.bound.max(1.0))
    }

    /// Rows put into a state, of which some are read.
    fn scatter(&mut self, a: Row) -> Row {
        let state = [symbol(feed::R), a.width.into()];
        let state = self.input(Role::State, DType::F32, &state);
        let ids = self.indices(a.rows.clone());
        let new = self.add(ops::Scatter, &[state, ids, a.v]);
        self.g.outputs.push(new);
        let n = symbol(feed::T);
        let ids = self.indices(n.clone());
        let v = self.add(ops::Gather, &[new, ids]);
        self.keep(v, n, a.width, a.bound.max(1.0))
    }

    /// Outputs: what nothing uses, at most four of them, the newest first.
    fn finish(mut self) -> Graph {
        let unused = self.pool.iter().rev().map(|row| row.v);
        let unused: Vec<Value> = unused
            .filter(|v| self.g.users(*v).is_empty())
            .take(4)
            .collect();
        self.g.outputs.splice(0..0, unused);
        self.g
    }
}

/// What the indices in an input may be.
enum Indices {
    /// Row numbers below a size.
    Below(Dim),
    /// Row numbers below a size, no two equal.
    Distinct(Dim),
    /// First rows of intervals in a size.
    From(Dim),
    /// Ends of intervals in a size.
    To(Dim),
}

/// What the ops that take `v` want of it.
fn indices(graph: &Graph, v: Value) -> Option<Indices> {
    let mut wanted = vec![];
    for user in graph.users(v) {
        let args = graph.args(user);
        let rows = |i: usize| graph.ty(args[i]).shape.first().cloned();
        for i in (0..args.len()).filter(|i| args[*i] == v) {
            wanted.extend(match (graph.op(user)?.kind(), i) {
                (OpKind::Gather, 1) => rows(0).map(Indices::Below),
                (OpKind::Experts, 1) => {
                    graph.ty(args[3]).shape.first().cloned().map(Indices::Below)
                }
                (OpKind::Scatter, 1) => rows(0).map(Indices::Distinct),
                (OpKind::Attention, 3) => rows(1).map(Indices::From),
                (OpKind::Attention, 4) => rows(1).map(Indices::To),
                (OpKind::MeanRows | OpKind::MaxRows, 1) => rows(0).map(Indices::From),
                (OpKind::MeanRows | OpKind::MaxRows, 2) => rows(0).map(Indices::To),
                _ => None,
            });
        }
    }
    // The narrowest claim first: what is distinct, or an interval's end, serves as an index too.
    wanted.sort_by_key(|w| matches!(w, Indices::Below(_)));
    if wanted.is_empty() {
        let (name, _) = graph.as_input(v)?;
        let own = graph.ty(v).shape.first()?.clone();
        match &**name {
            feed::LO => wanted.push(Indices::From(own)),
            feed::HI => wanted.push(Indices::To(own)),
            _ => {}
        }
    }
    wanted.into_iter().next()
}

/// Inputs for a graph with each symbol at `at` of it: floats in `-1..1` that their type holds exactly, in states as rows are
/// rounded that are put there; row numbers and
/// non-empty intervals where an op takes an i32 input as such, or where it has the name [`feed::LO`] or
/// [`feed::HI`]; other integers in `0..8`, codes of weights in `-7..=7`. Ask for the tensors of a graph before it is lowered, which hides those
/// ops.
pub fn tensors(graph: &Graph, seed: u64, at: &dyn Fn(&Sym) -> i64) -> Vec<Tensor> {
    let mut random = Source::new(seed ^ 0x5EED);
    let inputs = graph.inputs().iter();
    inputs
        .map(|v| {
            let ty = graph.ty(*v);
            let shape = ty.at(at);
            let n: usize = shape.iter().product();
            let size = |d: &Dim| usize::try_from(d.eval(at)).unwrap_or(0).max(1);
            let mut draw = |f: &mut dyn FnMut(&mut Source) -> f64| -> Vec<f64> {
                (0..n).map(|_| f(&mut random)).collect()
            };
            let data = match (ty.dtype, indices(graph, *v)) {
                (DType::Bool, _) => draw(&mut |r| r.below(2) as f64),
                (DType::I32, Some(Indices::Below(d))) => draw(&mut |r| r.below(size(&d)) as f64),
                (DType::I32, Some(Indices::From(d))) => {
                    draw(&mut |r| r.below(size(&d) / 2 + 1).min(size(&d) - 1) as f64)
                }
                (DType::I32, Some(Indices::To(d))) => draw(&mut |r| {
                    let middle = size(&d) / 2;
                    (middle + 1 + r.below(size(&d) - middle)).min(size(&d)) as f64
                }),
                (DType::I32, Some(Indices::Distinct(d))) => {
                    let mut rows: Vec<usize> = (0..size(&d)).collect();
                    for i in (1..rows.len()).rev() {
                        rows.swap(i, random.below(i + 1));
                    }
                    rows.iter().cycle().take(n).map(|r| *r as f64).collect()
                }
                (DType::I32, None) => draw(&mut |r| r.below(8) as f64),
                // Codes and zero points that every element of 8 bits and fewer says.
                (DType::I8, _) => draw(&mut |r| r.pick(&[-3.0, -2.0, 0.0, 1.0, 2.0, 3.0])),
                (DType::I16, _) => draw(&mut |r| r.below(81) as f64 - 40.0),
                (float, _) => draw(&mut |r| float.round(r.unit())),
            };
            let tensor = Tensor::new(shape.clone(), data);
            match ops::Scatter::rounding(graph, *v) {
                Some(rounding) => Op::from(rounding.clone())
                    .eval(&[tensor], &shape)
                    .expect("rows of its own type"),
                None => tensor,
            }
        })
        .collect()
}
