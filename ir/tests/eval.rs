//! The interpreter against independent math: each op on numbers worked out by hand or by a direct loop.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ir::{DType, EvalError, Graph, OpKind, Sym, Tensor};
use std::collections::BTreeSet;

/// Values of a graph's outputs at `T` = 3.
fn eval(graph: &str, inputs: &[Tensor]) -> Result<Vec<Tensor>, EvalError> {
    let graph: Graph = graph.parse().unwrap_or_else(|e| panic!("{graph}: {e}"));
    graph.eval(inputs, &|_: &Sym| 3)
}

fn tensor(shape: &[usize], data: &[f64]) -> Tensor {
    Tensor::new(shape, data.to_vec())
}

/// Numbers that follow no pattern, in `-1..1`.
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut source = ir::random::Source::new(seed);
    Tensor::from_fn(shape, |_| source.unit())
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    let diff = found.max_abs_diff(expected);
    assert!(diff < 1e-12, "{what}: {found:?}, expected {expected:?}");
}

/// One op (or term) over inputs `x`, `y`, `z`, and the numbers it gives.
struct Case {
    /// Element type, shape and values of each input.
    inputs: &'static [(&'static str, &'static [usize], &'static [f64])],
    term: &'static str,
    shape: &'static [usize],
    expected: &'static [f64],
}

const LN_3: f64 = 1.098_612_288_668_109_8;
const X: (&str, &[usize], &[f64]) = ("f32", &[2, 3], &[1.0, -2.0, 0.5, 4.0, 0.0, -1.0]);
const ROW: (&str, &[usize], &[f64]) = ("f32", &[3], &[2.0, -1.0, 4.0]);
const COLUMN: (&str, &[usize], &[f64]) = ("f32", &[2, 1], &[2.0, -1.0]);
const IDS: (&str, &[usize], &[f64]) = ("i32", &[3], &[1.0, 0.0, 1.0]);

/// A group of 32 that begins with these.
const fn padded(start: &[f64]) -> [f64; 32] {
    let mut all = [0.0; 32];
    let mut i = 0;
    while i < start.len() {
        all[i] = start[i];
        i += 1;
    }
    all
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { inputs: &[], term: "const() {value=2.5, dtype=bf16}", shape: &[], expected: &[2.5] },
    Case { inputs: &[], term: "iota() {n=[4]}", shape: &[4], expected: &[0.0, 1.0, 2.0, 3.0] },
    Case { inputs: &[X, ROW], term: "add(x, y)", shape: &[2, 3], expected: &[3.0, -3.0, 4.5, 6.0, -1.0, 3.0] },
    Case { inputs: &[X, COLUMN], term: "add(x, y)", shape: &[2, 3], expected: &[3.0, 0.0, 2.5, 3.0, -1.0, -2.0] },
    Case { inputs: &[COLUMN, ROW], term: "add(x, y)", shape: &[2, 3], expected: &[4.0, 1.0, 6.0, 1.0, -2.0, 3.0] },
    Case { inputs: &[X, ROW], term: "sub(x, y)", shape: &[2, 3], expected: &[-1.0, -1.0, -3.5, 2.0, 1.0, -5.0] },
    Case { inputs: &[X, ROW], term: "mul(x, y)", shape: &[2, 3], expected: &[2.0, 2.0, 2.0, 8.0, 0.0, -4.0] },
    Case { inputs: &[X, ROW], term: "div(x, y)", shape: &[2, 3], expected: &[0.5, 2.0, 0.125, 2.0, 0.0, -0.25] },
    Case { inputs: &[X, ROW], term: "max(x, y)", shape: &[2, 3], expected: &[2.0, -1.0, 4.0, 4.0, 0.0, 4.0] },
    Case { inputs: &[X, ROW], term: "min(x, y)", shape: &[2, 3], expected: &[1.0, -2.0, 0.5, 2.0, -1.0, -1.0] },
    Case { inputs: &[IDS], term: "add(x, x)", shape: &[3], expected: &[2.0, 0.0, 2.0] },
    // Abramowitz & Stegun, tables 4.4, 4.6, 4.15, 7.1.
    Case { inputs: &[], term: "exp(1.0)", shape: &[], expected: &[std::f64::consts::E] },
    Case { inputs: &[], term: "rsqrt(16.0)", shape: &[], expected: &[0.25] },
    Case { inputs: &[], term: "tanh(1.0)", shape: &[], expected: &[0.761_594_155_955_764_9] },
    Case { inputs: &[], term: "erf(0.5)", shape: &[], expected: &[0.520_499_877_813_046_5] },
    Case { inputs: &[], term: "sin(1.0)", shape: &[], expected: &[0.841_470_984_807_896_5] },
    Case { inputs: &[], term: "cos(1.0)", shape: &[], expected: &[0.540_302_305_868_139_7] },
    Case { inputs: &[X, ROW], term: "lt(x, y)", shape: &[2, 3], expected: &[1.0, 1.0, 1.0, 0.0, 0.0, 1.0] },
    Case { inputs: &[("bool", &[2, 1], &[1.0, 0.0]), ROW, X], term: "select(x, y, z)", shape: &[2, 3], expected: &[2.0, -1.0, 4.0, 4.0, 0.0, -1.0] },
    // 1/3 has the nearest bfloat16 0x3EAB and the nearest half 0x3555; ties go to even; to integer is towards zero.
    Case { inputs: &[("f32", &[2], &[1.0 / 3.0, 1.00390625])], term: "cast(x) {to=bf16}", shape: &[2], expected: &[0.333984375, 1.0] },
    Case { inputs: &[("f32", &[2], &[1.0 / 3.0, 70000.0])], term: "cast(x) {to=f16}", shape: &[2], expected: &[0.333251953125, f64::INFINITY] },
    Case { inputs: &[("f32", &[3], &[-1.9, 1.9, 2.0])], term: "cast(x) {to=i32}", shape: &[3], expected: &[-1.0, 1.0, 2.0] },
    Case { inputs: &[("f32", &[2], &[0.0, -0.5])], term: "cast(x) {to=bool}", shape: &[2], expected: &[0.0, 1.0] },
    // Scales of 1, and of 1.75 / 7; ties go to even.
    Case { inputs: &[("f32", &[32], &padded(&[127.0, 1.4, -2.6, 0.5, 1.5]))], term: "fake_quantize(x) {element=q8, group=32, scale=f32}", shape: &[32], expected: &padded(&[127.0, 1.0, -3.0, 0.0, 2.0]) },
    Case { inputs: &[("f32", &[2, 3], &[127.0, 1.4, -2.6, 0.0, 254.0, 3.0])], term: "fake_quantize(x) {element=q8, group=3, scale=f32}", shape: &[2, 3], expected: &[127.0, 1.0, -3.0, 0.0, 254.0, 4.0] },
    Case { inputs: &[("f32", &[32], &padded(&[-1.75, 0.3, 0.4]))], term: "fake_quantize(x) {element=q4, group=32, scale=f16}", shape: &[32], expected: &padded(&[-1.75, 0.25, 0.5]) },
    Case { inputs: &[("f32", &[32], &[0.0; 32])], term: "fake_quantize(x) {element=q4, group=32, scale=f32}", shape: &[32], expected: &[0.0; 32] },
    Case { inputs: &[("i8", &[64], &[-7.0; 64]), ("f16", &[2], &[0.5, 2.0])], term: "slice(dequantize(x, y) {element=q4, group=32}) {axis=0, start=31, end=33}", shape: &[2], expected: &[-3.5, -14.0] },
    Case { inputs: &[("f32", &[2, 2], &[3.0, 1.0, 0.0, -2.0])], term: "mul(hadamard(x) {block=2}, rsqrt(0.5))", shape: &[2, 2], expected: &[4.0, 2.0, -2.0, 2.0] },
    Case { inputs: &[("f32", &[4], &[1.0, 2.0, 3.0, 4.0])], term: "hadamard(x) {block=4}", shape: &[4], expected: &[5.0, -1.0, -2.0, 0.0] },
    Case { inputs: &[X], term: "sum(x)", shape: &[2, 1], expected: &[-0.5, 3.0] },
    Case { inputs: &[X], term: "amax(x)", shape: &[2, 1], expected: &[1.0, 4.0] },
    Case { inputs: &[("f32", &[2, 0], &[])], term: "sum(x)", shape: &[2, 1], expected: &[0.0, 0.0] },
    Case { inputs: &[X, ("f32", &[3, 2], &[1.0, 0.0, 2.0, -1.0, 0.0, 4.0])], term: "matmul(x, y)", shape: &[2, 2], expected: &[-3.0, 4.0, 4.0, -4.0] },
    Case { inputs: &[ROW, ("f32", &[3, 2], &[1.0, 0.0, 2.0, -1.0, 0.0, 4.0])], term: "matmul(x, y)", shape: &[2], expected: &[0.0, 17.0] },
    Case { inputs: &[("f32", &[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]), ("f32", &[2, 2, 1], &[1.0, 10.0, 100.0, 1000.0])], term: "matmul(x, y)", shape: &[2, 1, 1], expected: &[21.0, 4300.0] },
    Case { inputs: &[("f32", &[2, 0], &[]), ("f32", &[0, 2], &[])], term: "matmul(x, y)", shape: &[2, 2], expected: &[0.0; 4] },
    Case { inputs: &[X, ("f32", &[2, 3], &[1.0, 2.0, 0.0, 0.0, -1.0, 4.0])], term: "linear(x, y)", shape: &[2, 2], expected: &[-3.0, 4.0, 4.0, -4.0] },
    Case { inputs: &[X], term: "reshape(x) {shape=[3,2]}", shape: &[3, 2], expected: X.2 },
    Case { inputs: &[X], term: "transpose(x) {perm=[1,0]}", shape: &[3, 2], expected: &[1.0, 4.0, -2.0, 0.0, 0.5, -1.0] },
    Case { inputs: &[("f32", &[1, 2, 3], X.2)], term: "transpose(x) {perm=[2,0,1]}", shape: &[3, 1, 2], expected: &[1.0, 4.0, -2.0, 0.0, 0.5, -1.0] },
    Case { inputs: &[X], term: "slice(x) {axis=1, start=1, end=3}", shape: &[2, 2], expected: &[-2.0, 0.5, 0.0, -1.0] },
    Case { inputs: &[X], term: "slice(x) {axis=0, start=1, end=1}", shape: &[0, 3], expected: &[] },
    Case { inputs: &[X, COLUMN], term: "concat(x, y, y) {axis=1}", shape: &[2, 5], expected: &[1.0, -2.0, 0.5, 2.0, 2.0, 4.0, 0.0, -1.0, -1.0, -1.0] },
    Case { inputs: &[X, ("f32", &[1, 3], &[7.0, 8.0, 9.0])], term: "concat(y, x) {axis=0}", shape: &[3, 3], expected: &[7.0, 8.0, 9.0, 1.0, -2.0, 0.5, 4.0, 0.0, -1.0] },
    Case { inputs: &[X, IDS], term: "gather(x, y)", shape: &[3, 3], expected: &[4.0, 0.0, -1.0, 1.0, -2.0, 0.5, 4.0, 0.0, -1.0] },
    Case { inputs: &[ROW, IDS], term: "gather(x, y)", shape: &[3], expected: &[-1.0, 2.0, -1.0] },
    Case { inputs: &[X, ("i32", &[1], &[1.0]), ("f32", &[1, 3], &[7.0, 8.0, 9.0])], term: "scatter(x, y, z)", shape: &[2, 3], expected: &[1.0, -2.0, 0.5, 7.0, 8.0, 9.0] },
    Case { inputs: &[], term: "relu(-3.0)", shape: &[], expected: &[0.0] },
    Case { inputs: &[], term: "relu(3.0)", shape: &[], expected: &[3.0] },
    // sigmoid(ln 3) = 3/4.
    Case { inputs: &[], term: "sigmoid(1.0986122886681098)", shape: &[], expected: &[0.75] },
    Case { inputs: &[], term: "silu(1.0986122886681098)", shape: &[], expected: &[0.75 * 1.098_612_288_668_109_8] },
    Case { inputs: &[], term: "swiglu(1.0986122886681098, 4.0)", shape: &[], expected: &[3.0 * 1.098_612_288_668_109_8] },
    // The normal distribution's table: Phi(1) = 0.841344746068543.
    Case { inputs: &[], term: "gelu(1.0)", shape: &[], expected: &[0.841_344_746_068_542_9] },
    // 0.5 (1 + tanh(0.7978845608 * 1.044715)).
    Case { inputs: &[], term: "gelu_tanh(1.0)", shape: &[], expected: &[0.841_191_990_608_276_1] },
    // Weights 1 : 2 : 5 after the exponentials of their logarithms.
    Case { inputs: &[("f32", &[3], &[0.0, std::f64::consts::LN_2, 1.609_437_912_434_100_3])], term: "softmax(x)", shape: &[3], expected: &[0.125, 0.25, 0.625] },
    Case { inputs: &[("f32", &[2], &[1e4, 1e4])], term: "softmax(x)", shape: &[2], expected: &[0.5, 0.5] },
    // Mean square 12.5 - 0.5 + 4 = 16; mean 1 and variance 4 (+ 5 = 9).
    Case { inputs: &[("f32", &[2], &[3.0, 4.0])], term: "rms_norm(x) {eps=3.5}", shape: &[2], expected: &[0.75, 1.0] },
    Case { inputs: &[("f32", &[2], &[-1.0, 3.0])], term: "layer_norm(x) {eps=5.0}", shape: &[2], expected: &[-2.0 / 3.0, 2.0 / 3.0] },
    Case { inputs: &[X, ("i32", &[2], &[0.0, 1.0]), ("i32", &[2], &[2.0, 2.0])], term: "mean_rows(x, y, z)", shape: &[2, 3], expected: &[2.5, -1.0, -0.25, 4.0, 0.0, -1.0] },
    Case { inputs: &[X, ("i32", &[2], &[0.0, 1.0]), ("i32", &[2], &[2.0, 2.0])], term: "max_rows(x, y, z)", shape: &[2, 3], expected: &[4.0, 0.0, 0.5, 4.0, 0.0, -1.0] },
    // Of equal elements the first comes first.
    Case { inputs: &[("f32", &[2, 3], &[0.5, 0.25, 0.5, 0.0, 1.0, 2.0]), ("f32", &[3], &[0.0, 1.0, 2.0])], term: "top_k_ids(x, y) {k=2}", shape: &[2, 2], expected: &[0.0, 2.0, 2.0, 1.0] },
    Case { inputs: &[("f32", &[2, 3], &[0.5, 0.25, 0.5, 0.0, 1.0, 2.0]), ("f32", &[3], &[0.0, 1.0, 2.0])], term: "top_k_values(x, y) {k=2}", shape: &[2, 2], expected: &[0.5, 0.5, 2.0, 1.0] },
    // The second expert's product is ln 3, whose sigmoid is 3/4; half of that and a weight of 2 make one factor more.
    Case { inputs: &[("f32", &[1, 1], &[2.0]), ("i32", &[1, 1], &[1.0]), ("f32", &[2, 1, 1], &[5.0, LN_3 / 2.0])], term: "experts(x, y, x, z, z, z)", shape: &[1, 1], expected: &[0.75 * LN_3 * LN_3 * LN_3] },
    // Kernels: the body is applied to the value, the product, both products.
    Case { inputs: &[X, ROW], term: "map(x, mul(acc() {index=0, ty=f32[2,3]}, y))", shape: &[2, 3], expected: &[2.0, 2.0, 2.0, 8.0, 0.0, -4.0] },
    Case { inputs: &[X, ("f32", &[3, 1], &[1.0, 2.0, 4.0])], term: "gemm(x, y, mul(acc() {index=0, ty=f32[2,1]}, 0.5))", shape: &[2, 1], expected: &[-0.5, 0.0] },
    Case { inputs: &[X, ("f32", &[3, 1], &[1.0, 2.0, 4.0]), ("f32", &[3, 1], &[1.0, 1.0, 0.0])], term: "gemm(x, y, z, sub(acc() {index=0, ty=f32[2,1]}, acc() {index=1, ty=f32[2,1]}))", shape: &[2, 1], expected: &[0.0, -4.0] },
    // A kernel in a leaf of a body keeps its own accumulator, of another type or of the same.
    Case { inputs: &[X, ("f32", &[3, 1], &[1.0, 2.0, 4.0])], term: "map(x, mul(acc() {index=0, ty=f32[2,3]}, gemm(x, y, add(acc() {index=0, ty=f32[2,1]}, 1.0))))", shape: &[2, 3], expected: &[0.0, 0.0, 0.0, 4.0, 0.0, -1.0] },
    Case { inputs: &[X, ROW], term: "map(x, add(acc() {index=0, ty=f32[2,3]}, map(mul(x, y), mul(acc() {index=0, ty=f32[2,3]}, 10.0))))", shape: &[2, 3], expected: &[21.0, 18.0, 20.5, 84.0, 0.0, -41.0] },
];

#[test]
fn ops_by_hand() {
    for case in CASES {
        let mut signature = vec![];
        let mut inputs = vec![];
        for ((dtype, shape, data), name) in case.inputs.iter().zip(["x", "y", "z"]) {
            let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
            let role = if case.term.starts_with("scatter") && name == "x" {
                "state "
            } else {
                ""
            };
            signature.push(format!("{role}{name}: {dtype}[{}]", dims.join(",")));
            inputs.push(tensor(shape, data));
        }
        let graph = format!("graph({}) {{ return {} }}", signature.join(", "), case.term);
        assert_eq!(graph.parse::<Graph>().unwrap().verify(), [], "{graph}");
        let found = eval(&graph, &inputs).unwrap_or_else(|e| panic!("{graph}: {e}"));
        assert_eq!(found[0].shape, case.shape, "{graph}");
        for (f, e) in found[0].data.iter().zip(case.expected) {
            assert!(
                f == e || (f - e).abs() < 1e-14,
                "{graph}: {f}, expected {e}"
            );
        }
    }
}

#[test]
fn a_kernel_applied_to_an_accumulator_keeps_its_own() {
    let graph = "graph(x: f32[2]) {
        %acc = acc() {index=0, ty=f32[2]}
        return map(x, map(mul(%acc, 3.0), add(%acc, 1.0)))
      }";
    let found = eval(graph, &[tensor(&[2], &[1.0, -2.0])]).unwrap();
    assert_eq!(found[0].data, [4.0, -5.0]);
}

#[test]
fn every_op_has_a_case() {
    let text: Vec<&str> = CASES.iter().map(|c| c.term).collect();
    let words = text.join(" ");
    let words: BTreeSet<&str> = words
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect();
    // Tested against loops below.
    let loops = ["rope", "attention"];
    for kind in OpKind::ALL {
        let name = kind.name();
        assert!(words.contains(name) || loops.contains(&name), "{name}");
    }
}

/// Attention by the definition: one loop per query, head and key.
fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    lo: &Tensor,
    hi: &Tensor,
    scale: f64,
    cap: f64,
) -> Tensor {
    let (heads, groups, d) = (q.shape[1], k.shape[1], q.shape[2]);
    let mut out = Tensor::from_fn(&q.shape, |_| 0.0);
    for t in 0..q.shape[0] {
        for h in 0..heads {
            let g = h / (heads / groups);
            let query = &q.data[(t * heads + h) * d..][..d];
            let rows = lo.data[t] as usize..hi.data[t] as usize;
            let score = |r: usize| {
                let key = &k.data[(r * groups + g) * d..][..d];
                let dot: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                match cap > 0.0 {
                    true => (cap * (dot * scale / cap).tanh()).exp(),
                    false => (dot * scale).exp(),
                }
            };
            let total: f64 = rows.clone().map(score).sum();
            for r in rows {
                for i in 0..d {
                    let value = v.data[(r * groups + g) * d + i];
                    out.data[(t * heads + h) * d + i] += score(r) / total * value;
                }
            }
        }
    }
    out
}

#[test]
fn attention_is_its_definition() {
    // Rows of keys, heads, key heads, intervals, cap.
    type Setting = (usize, usize, usize, [(f64, f64); 3], f64);
    let settings: [Setting; 5] = [
        (3, 2, 2, [(0.0, 3.0), (0.0, 3.0), (0.0, 3.0)], 0.0),
        (3, 1, 1, [(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)], 0.0),
        (5, 4, 2, [(0.0, 2.0), (2.0, 5.0), (4.0, 5.0)], 0.0),
        (5, 6, 1, [(1.0, 4.0), (0.0, 5.0), (3.0, 4.0)], 0.0),
        (5, 4, 2, [(0.0, 2.0), (2.0, 5.0), (0.0, 5.0)], 0.25),
    ];
    for (rows, heads, groups, intervals, cap) in settings {
        let graph = format!(
            "sym T <= 8
             graph(q: f32[T,{heads},5], k: f32[{rows},{groups},5], v: f32[{rows},{groups},5], lo: i32[T], hi: i32[T]) {{
               return attention(q, k, v, lo, hi) {{scale=0.7, softcap={cap:?}}}
             }}"
        );
        let (q, k, v) = (
            noise(&[3, heads, 5], 1),
            noise(&[rows, groups, 5], 2),
            noise(&[rows, groups, 5], 3),
        );
        let lo = tensor(&[3], &intervals.map(|i| i.0));
        let hi = tensor(&[3], &intervals.map(|i| i.1));
        let expected = attention(&q, &k, &v, &lo, &hi, 0.7, cap);
        let found = eval(&graph, &[q, k, v, lo, hi]).unwrap();
        assert_close(&graph, &found[0], &expected);
    }
}

#[test]
fn attention_from_primitives_is_attention() {
    let text = include_str!("../../tests/ir/attention.ir");
    let inputs: Vec<Tensor> = (1..4).map(|seed| noise(&[3, 64], seed)).collect();
    let lo = tensor(&[3], &[0.0, 0.0, 1.0]);
    let hi = tensor(&[3], &[2.0, 3.0, 2.0]);
    let heads = |x: &Tensor| Tensor::new([3, 4, 16], x.data.clone());
    let expected = attention(
        &heads(&inputs[0]),
        &heads(&inputs[1]),
        &heads(&inputs[2]),
        &lo,
        &hi,
        0.25,
        0.0,
    );
    let expected = Tensor::new([3, 64], expected.data);
    let found = eval(text, &[inputs, vec![lo, hi]].concat()).unwrap();
    assert_close("attention.ir", &found[0], &expected);
}

#[test]
fn rope_multiplies_complex_numbers() {
    // Head size 7 with 3 angles leaves the last element alone; 6 with 3 none.
    for d in [6, 7] {
        let graph = format!(
            "sym T <= 8
             graph(x: f32[T,2,{d}], angle: f32[T,1,3]) {{ return rope(x, cos(angle), sin(angle)) }}"
        );
        let (x, angle) = (noise(&[3, 2, d], 4), noise(&[3, 1, 3], 5));
        let mut expected = x.clone();
        for row in 0..6 {
            for i in 0..3 {
                // (a + bi) * e^(i angle), in polar form.
                let (a, b) = (row * d + i, row * d + i + 3);
                let (radius, phase) = (x.data[a].hypot(x.data[b]), x.data[b].atan2(x.data[a]));
                let turned = phase + angle.data[row / 2 * 3 + i];
                expected.data[a] = radius * turned.cos();
                expected.data[b] = radius * turned.sin();
            }
        }
        let found = eval(&graph, &[x, angle]).unwrap();
        assert_close(&graph, &found[0], &expected);
    }
}

#[test]
fn batched_matmul_is_a_matmul_a_batch() {
    let (a, b) = (noise(&[2, 3, 4, 5], 6), noise(&[2, 3, 5, 2], 7));
    let expected = Tensor::from_fn(&[2, 3, 4, 2], |i| {
        let batch = i[0] * 3 + i[1];
        let term =
            |k: usize| a.data[(batch * 4 + i[2]) * 5 + k] * b.data[(batch * 5 + k) * 2 + i[3]];
        (0..5).map(term).sum()
    });
    let graph = "graph(a: f32[2,3,4,5], b: f32[2,3,5,2]) { return matmul(a, b) }";
    let found = eval(graph, &[a, b]).unwrap();
    assert_close(graph, &found[0], &expected);
}

#[test]
fn scattered_rows_are_gathered_back() {
    let graph = "sym T <= 8
        graph(state table: f32[5,2], ids: i32[T], rows: f32[T,2]) {
          %new = scatter(table, ids, rows)
          return gather(%new, ids), %new
        }";
    let (table, rows) = (noise(&[5, 2], 8), noise(&[3, 2], 9));
    let ids = tensor(&[3], &[4.0, 0.0, 3.0]);
    let found = eval(graph, &[table.clone(), ids, rows.clone()]).unwrap();
    assert_eq!(found[0], rows);
    assert_eq!(found[1].data[2..6], table.data[2..6]);
}

#[test]
fn symbols_size_the_values() {
    let graph: Graph = "sym P <= 4\nsym T <= 4
        graph(x: f32[T,2], y: f32[P,2]) {
          %0: f32[P+T,2] = concat(y, x) {axis=0}
          %1: f32[2*P+2*T] = reshape(%0) {shape=[2*T+2*P]}
          return %1, iota() {n=[P*T-1]}
        }"
    .parse()
    .unwrap();
    let at = |s: &Sym| if &*s.name == "T" { 3 } else { 2 };
    let found = graph
        .eval(&[noise(&[3, 2], 1), noise(&[2, 2], 2)], &at)
        .unwrap();
    assert_eq!((&found[0].shape, &found[1].shape), (&vec![10], &vec![5]));
}

#[test]
fn refusals_name_the_input_or_the_index() {
    let check = |graph: &str, inputs: &[Tensor], expected: &str| {
        assert_eq!(eval(graph, inputs).unwrap_err().to_string(), expected);
    };
    let graph = "graph(x: f32[2,3], ids: i32[1]) { return gather(x, ids) }";
    check(
        graph,
        &[noise(&[2, 2], 1), tensor(&[1], &[0.0])],
        "input x: shape [2, 2], the graph wants [2, 3]",
    );
    check(
        graph,
        &[noise(&[2, 3], 1), tensor(&[1], &[2.0])],
        "gather: row 2 of a table of 2 rows",
    );
    check(
        graph,
        &[noise(&[2, 3], 1), tensor(&[1], &[-1.0])],
        "gather: row -1 of a table of 2 rows",
    );
    check(
        graph,
        &[noise(&[2, 3], 1)],
        "1 tensors given, the graph has 2 inputs",
    );
    check(
        "graph() { return acc() {index=0, ty=f32[]} }",
        &[],
        "acc cannot be evaluated here: it is no primitive, or was given wrong arguments",
    );
}

#[test]
fn ops_refuse_types_that_mean_nothing() {
    let check = |inputs: &str, term: &str, expected: &str| {
        let graph = format!("sym T <= 8 graph({inputs}) {{ return {term} }}");
        let refused = graph.parse::<Graph>().unwrap_err().why;
        assert!(refused.contains(expected), "{graph}: {refused}");
    };
    check("x: i32[2]", "exp(x)", "exp: wants floats");
    check("x: i32[2]", "silu(x)", "silu: wants floats");
    check("x: bool[2]", "add(x, x)", "add: wants numbers");
    check("x: f32[2], y: f16[2]", "add(x, y)", "element types differ");
    check(
        "x: f32[2], y: f32[3]",
        "add(x, y)",
        "shapes do not broadcast",
    );
    check(
        "x: f32[T], y: f32[2]",
        "add(x, y)",
        "shapes do not broadcast",
    );
    check("x: f32[]", "sum(x)", "sum: wants rank 1 or more");
    check(
        "x: f32[2,12]",
        "hadamard(x) {block=8}",
        "a block that is a power of two and divides the last axis, not 8",
    );
    check("x: f32[2,12]", "hadamard(x) {block=6}", "power of two");
    check("x: f32[2,12]", "hadamard(x) {block=1}", "power of two");
    check("x: bf16[2,12]", "hadamard(x) {block=4}", "wants f32");
    check(
        "x: f32[2,T]",
        "rms_norm(x) {eps=0.1}",
        "last axis of known size",
    );
    check(
        "x: f32[2,3], w: f32[2,3]",
        "matmul(x, w)",
        "inner dims 3 and 2 differ",
    );
    check(
        "x: f32[2,3], w: f32[4,2]",
        "linear(x, w)",
        "inner dims 3 and 2 differ",
    );
    check(
        "x: f32[2,2,3], w: f32[3,3,1]",
        "matmul(x, w)",
        "leading axes differ",
    );
    check(
        "x: f32[6]",
        "reshape(x) {shape=[4]}",
        "another number of elements",
    );
    check(
        "x: f32[6]",
        "reshape(x) {shape=[-2,-3]}",
        "has a negative size",
    );
    check(
        "x: f32[T]",
        "slice(x) {axis=0, start=0, end=1}",
        "no part of axis 0",
    );
    check("x: f32[2]", "concat(x, x) {axis=1}", "no axis 1");
    check(
        "x: f32[2,3]",
        "transpose(x) {perm=[0,0]}",
        "permutes other axes",
    );
    check("x: f32[2], i: f32[1]", "gather(x, i)", "ids: i32[T]");
    check(
        "x: f32[2], i: i32[1]",
        "scatter(x, i, x)",
        "wants rows of type f32[1]",
    );
    check("x: f32[2,1,5], c: f32[2,1,3]", "rope(x, c, c)", "2 R <= D");
    check(
        "q: f32[2,3,4], k: f32[5,2,4], i: i32[2]",
        "attention(q, k, k, i, i) {scale=1.0, softcap=0.0}",
        "G dividing H",
    );
    check(
        "x: f32[2,3], w: f32[3,4]",
        "gemm(x, w, x)",
        "wants a body of the product's shape",
    );
}

#[test]
fn a_rotation_is_a_product_with_the_hadamard_matrix_of_each_block() {
    for (block, width) in [(2, 6), (8, 8), (32, 96), (128, 128)] {
        let x = noise(&[3, width], block as u64);
        let rotate = format!("hadamard(x) {{block={block}}}");
        let graph = format!(
            "graph(x: f32[3,{width}]) {{ return {rotate}, hadamard({rotate}) {{block={block}}} }}"
        );
        let found = eval(&graph, std::slice::from_ref(&x)).unwrap();
        // Sylvester's: H(2 n) = [H(n) H(n); H(n) -H(n)].
        let mut h = vec![vec![1.0]];
        while h.len() < block {
            let sides = |sign: f64| {
                let join = move |row: &Vec<f64>| {
                    let right: Vec<f64> = row.iter().map(|x| sign * x).collect();
                    [&row[..], &right].concat()
                };
                h.iter().map(join).collect::<Vec<_>>()
            };
            h = [sides(1.0), sides(-1.0)].concat();
        }
        let root = (block as f64).sqrt();
        let dense = Tensor::from_fn(&[3, width], |at| {
            let start = at[1] / block * block;
            let product = |i: usize| h[at[1] - start][i] * x.data[at[0] * width + start + i];
            (0..block).map(product).sum::<f64>() / root
        });
        assert_close(&rotate, &found[0], &dense);
        assert_close("its own inverse", &found[1], &x);
    }
}

#[test]
fn composites_have_a_meaning_in_every_type_they_accept() {
    for dtype in ["f32", "f16", "bf16"] {
        let graph = format!(
            "graph(x: {dtype}[2,4], i: i32[2]) {{
               %h = reshape(x) {{shape=[2,2,2]}}
               %c = reshape(slice(x) {{axis=1, start=0, end=1}}) {{shape=[2,1,1]}}
               return sigmoid(x), silu(x), relu(x), gelu(x), gelu_tanh(x), swiglu(x, x), softmax(x),
                 rms_norm(x) {{eps=0.1}}, layer_norm(x) {{eps=0.1}}, linear(x, x), rope(%h, %c, %c),
                 mean_rows(x, i, add(i, i)), attention(%h, %h, %h, i, i) {{scale=1.0, softcap=2.0}}
             }}"
        );
        let graph: Graph = graph.parse().unwrap();
        let lowered = graph.lower(|_| false).unwrap();
        for (a, b) in graph.outputs.iter().zip(&lowered.outputs) {
            assert_eq!(graph.ty(*a), lowered.ty(*b));
        }
    }
}

#[test]
fn narrow_floats_are_rounded_once() {
    let check = |dtype: DType, x: f64, expected: f64| {
        for sign in [1.0, -1.0] {
            assert_eq!(dtype.round(sign * x), sign * expected, "{dtype}: {x}");
        }
    };
    let ulp = |n: i32| f64::from(n).exp2();
    // Ties go to even; what is above one by less than f32 or half of f64 can say goes up.
    check(DType::BF16, 1.0 + ulp(-8), 1.0);
    check(DType::BF16, 1.0 + ulp(-8) + ulp(-23), 1.0 + ulp(-7));
    check(DType::BF16, 1.0 + ulp(-8) + ulp(-52), 1.0 + ulp(-7));
    check(DType::BF16, 1.0 + 3.0 * ulp(-8) - ulp(-50), 1.0 + ulp(-7));
    check(DType::F16, 1.0 + ulp(-11), 1.0);
    check(DType::F16, 1.0 + ulp(-11) + ulp(-23), 1.0 + ulp(-10));
    check(DType::F16, 1.0 + ulp(-11) + ulp(-52), 1.0 + ulp(-10));
    check(DType::F16, ulp(-25) + ulp(-60), ulp(-24));
    check(DType::F16, 65520.0 - ulp(-36), 65504.0);
    check(DType::F16, 65520.0, f64::INFINITY);
    check(DType::BF16, 1e300, f64::INFINITY);
    check(DType::BF16, 1e-300, 0.0);
}
