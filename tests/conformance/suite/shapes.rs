//! Kernels at the edges of their tiles: products, their bodies, attention, rows by index, and layouts.

use super::{Compiled, at, check};
use crate::{stored, targets};
use compiler::{Options, Precision, Weights};
use ir::{Element, Graph, Target, Tensor, random};

fn parse(text: &str) -> Graph {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Runs one compilation at several numbers of rows, with the weights it was compiled with.
pub fn check_rows(text: &str, rows: impl IntoIterator<Item = u32>, target: &Target) {
    check_rows_within(text, rows, target, 1e-4);
}

/// As [`check_rows`], where elements may differ by so much.
pub fn check_rows_within(
    text: &str,
    rows: impl IntoIterator<Item = u32>,
    target: &Target,
    most: f64,
) {
    let graph = parse(text);
    let what = format!("{target}: {text}");
    let sizes = |t| [("T", t), ("R", t + 3), ("L", 2)];
    let first = random::tensors(&graph, 3, &at(&sizes(4)));
    let compiled = Compiled::new(&what, &graph, &first, &sizes(4), &stored(target));
    let compiled = compiled.unwrap_or_else(|e| panic!("{what}: {e}"));
    for t in rows {
        let mut tensors = random::tensors(&graph, u64::from(t), &at(&sizes(t)));
        for ((tensor, known), v) in tensors.iter_mut().zip(&first).zip(graph.inputs()) {
            if graph
                .as_input(*v)
                .is_some_and(|(_, r)| r == ir::Role::Weight)
            {
                tensor.clone_from(known);
            }
        }
        compiled.compare_within(&tensors, &sizes(t), most);
    }
}

#[test]
fn products_of_all_shapes() {
    let rows = || (1..=17).chain(63..=66).chain([129]);
    for target in targets() {
        for k in [1, 3, 16, 100, 1000] {
            for n in [1, 15, 16, 17, 63, 64, 65, 130] {
                let text = format!(
                    "sym T <= 256\ngraph(x: f32[T,{k}], weight w: f32[{k},{n}]) {{ return matmul(x, w) }}"
                );
                check_rows(&text, rows(), &target);
            }
        }
    }
}

/// Graphs over rows `[T, ..]`.
const GRAPHS: &[&str] = &[
    // Products: narrow weights, bodies.
    "graph(x: f32[T,33], weight w: bf16[21,33]) { return linear(x, cast(w) {to=f32}) }",
    "graph(x: f32[T,33], weight w: f16[21,33]) { return linear(x, cast(w) {to=f32}) }",
    // Rows rounded to bf16 in front of products, and behind them.
    "graph(x: f32[T,33], weight w: bf16[21,33]) {
        return linear(cast(cast(mul(x, 0.5)) {to=bf16}) {to=f32}, cast(w) {to=f32})
    }",
    "graph(x: f32[T,64], weight a: bf16[80,64], weight b: bf16[80,64]) {
        %x = cast(cast(mul(x, 2.0)) {to=bf16}) {to=f32}
        return swiglu(linear(%x, cast(a) {to=f32}), linear(%x, cast(b) {to=f32}))
    }",
    "graph(x: f32[T,4,6], weight a: bf16[16,24], weight b: bf16[40,16]) {
        %x = reshape(cast(cast(mul(x, 2.0)) {to=bf16}) {to=f32}) {shape=[T,24]}
        %y = cast(cast(linear(%x, cast(a) {to=f32})) {to=bf16}) {to=f32}
        return linear(%y, cast(b) {to=f32})
    }",
    // What other kernels read, too, stays f32.
    "graph(x: f32[T,24], weight a: bf16[24,24]) {
        %x = cast(cast(mul(x, 2.0)) {to=bf16}) {to=f32}
        return add(linear(%x, cast(a) {to=f32}), %x)
    }",
    "graph(x: f32[T,24], weight a: bf16[24,24], weight b: f16[24,24]) {
        %x = cast(cast(mul(x, 2.0)) {to=bf16}) {to=f32}
        return add(linear(%x, cast(a) {to=f32}), linear(%x, cast(b) {to=f32}))
    }",
    "graph(x: f32[T,20], weight a: f32[35,20], weight b: f32[35,20]) { return swiglu(linear(x, a), linear(x, b)) }",
    "graph(x: f32[T,20], weight a: bf16[64,20], weight b: bf16[64,20]) {
        return swiglu(linear(x, cast(a) {to=f32}), linear(x, cast(b) {to=f32}))
    }",
    "graph(x: f32[T,20], residual: f32[T,66], scale: f32[T,1], weight w: f32[66,20], weight b: f32[66]) {
        return add(mul(gelu(add(linear(x, w), b)), scale), residual)
    }",
    "graph(x: f32[T,20], y: f32[T,3], weight w: f32[70,20]) { return mul(linear(x, w), sum(y)) }",
    "graph(x: f32[T,2,20], y: f32[2,9], z: f32[T,1,9], weight w: f32[9,20]) {
        return mul(add(linear(x, w), y), z)
    }",
    "graph(x: f32[T,20], weight w: f32[9,20]) { return cast(lt(linear(x, w), 0.0)) {to=f32} }",
    "graph(x: f32[T,4,5], weight w: f32[9,20]) { return linear(reshape(transpose(x) {perm=[0,2,1]}) {shape=[T,20]}, w) }",
    "graph(x: f32[T,3,8], weight w: f32[9,12]) {
        return linear(reshape(slice(x) {axis=2, start=2, end=6}) {shape=[T,12]}, w)
    }",
    // Rotations: in front of, behind and between other work on rows; of parts of them; before few bits and products.
    "graph(x: f32[T,256]) { return hadamard(x) {block=128}, hadamard(x) {block=256} }",
    "graph(x: f32[T,3,64], g: f32[64]) { return add(hadamard(mul(rms_norm(x) {eps=1e-5}, g)) {block=64}, x) }",
    "graph(x: f32[T,24]) { return softmax(hadamard(tanh(hadamard(x) {block=8})) {block=4}) }",
    "graph(x: f32[T,9], y: f32[T,7]) {
        %r = hadamard(concat(x, y) {axis=1}) {block=16}
        return slice(%r) {axis=1, start=3, end=14}, slice(%r) {axis=1, start=5, end=6}, amax(%r)
    }",
    "graph(x: f32[T,2048]) { return exp(hadamard(x) {block=64}) }",
    "graph(x: f32[R,32], i: i32[T]) { return hadamard(gather(x, i)) {block=32} }",
    "graph(x: f32[T,64], weight w: f32[40,64], weight b: f32[40]) {
        return gelu(add(linear(hadamard(x) {block=32}, w), b))
    }",
    // Sums over more columns than the row has, of functions that are called.
    "graph(x: f32[T,20], y: f32[T,40]) { return mul(exp(x), sum(exp(y))) }",
    // Rows by index.
    "graph(x: f32[R,5], i: i32[T]) { return tanh(gather(x, i)) }",
    "graph(x: f32[R,5], i: i32[T], j: i32[L]) { return gather(exp(gather(x, i)), j) }",
    "graph(x: f32[9,5], i: i32[3], y: f32[T,3,5]) { return add(y, gather(x, i)) }",
    "graph(state s: f32[R,6], i: i32[T], x: f32[T,6]) { return scatter(s, i, tanh(x)) }",
    "graph(state s: f32[R,6], i: i32[T], j: i32[T], x: f32[T,6]) {
        %rows = add(gather(s, j), x)
        return scatter(s, i, %rows)
    }",
    "graph(state s: f32[R,2,3], i: i32[T], x: f32[T,2,3], j: i32[L]) {
        %new = scatter(s, i, x)
        return gather(%new, j), %new
    }",
    // Layouts.
    "graph(x: f32[T,5], y: f32[T,9]) { return concat(x, y) {axis=1} }",
    "graph(x: f32[T,5], y: f32[T,1], z: f32[T,17]) { return tanh(concat(x, y, z, x) {axis=1}) }",
    "graph(x: f32[T,3,5]) { return exp(transpose(x) {perm=[0,2,1]}) }",
    "graph(x: f32[T,3,5]) { return softmax(transpose(x) {perm=[0,2,1]}) }",
    "graph(x: f32[T,3,5], y: f32[T,5,3]) { return add(transpose(x) {perm=[0,2,1]}, y) }",
    "graph(x: f32[T,2,3,5]) { return transpose(tanh(transpose(x) {perm=[0,3,1,2]})) {perm=[0,2,1,3]} }",
    "graph(x: f32[T,11]) { return reshape(slice(x) {axis=1, start=1, end=9}) {shape=[T,2,4]} }",
    "graph(x: f32[T,3,4]) { return reshape(slice(x) {axis=1, start=1, end=3}) {shape=[T,8]} }",
    // Truth values, integers and narrow floats in memory.
    "graph(x: f32[T,7], y: f32[T,7]) {
        %less = lt(x, sum(y))
        return select(%less, softmax(x), y), select(%less, y, exp(x)), cast(%less) {to=f32}
    }",
    "graph(x: f32[T,7], i: i32[T,7]) { return add(cast(sum(i)) {to=f32}, mul(x, cast(amax(i)) {to=f32})) }",
    "graph(x: f32[T,7]) { return cast(cast(mul(x, 7.0)) {to=bf16}) {to=f32} }",
    "graph(x: f32[T,7]) { return cast(cast(mul(x, 0.0001)) {to=f16}) {to=f32} }",
    "graph(x: f32[T,7]) { return cast(cast(mul(x, 64.0)) {to=i32}) {to=f32} }",
    "graph(x: f32[T,7]) { return x, x, 2.5 }",
];

#[test]
fn graphs_of_rows() {
    for target in targets() {
        for text in GRAPHS {
            let text = format!("sym L <= 4\nsym R <= 256\nsym T <= 256\n{text}");
            check_rows(&text, [1, 2, 3, 5, 17, 64, 65], &target);
        }
    }
}

#[test]
fn attention_of_all_shapes() {
    let heads = [(1, 1), (2, 1), (4, 2), (3, 3), (8, 2)];
    for target in targets() {
        for (h, g) in heads {
            for d in [1, 3, 20, 64] {
                for cap in ["0.0", "5.0"] {
                    let text = format!(
                        "sym R <= 256\nsym T <= 256\ngraph(q: f32[T,{h},{d}], k: f32[R,{g},{d}], v: f32[R,{g},{d}], \
                         lo: i32[T], hi: i32[T]) {{ return attention(q, k, v, lo, hi) {{scale=0.7, softcap={cap}}} }}"
                    );
                    check_rows(&text, [1, 2, 16, 17, 70], &target);
                }
            }
        }
    }
}

#[test]
fn attention_over_narrow_keys() {
    for target in targets().into_iter().filter(|t| !t.is_gpu()) {
        for dtype in ["f16", "bf16"] {
            // As values, and as states that steps write to.
            for (h, g, d) in [(1, 1, 3), (4, 2, 20), (8, 2, 64)] {
                let head = format!("sym R <= 256\nsym T <= 256\ngraph(q: f32[T,{h},{d}]");
                let attention = "lo, hi) {scale=0.7, softcap=0.0}";
                let kv = format!("{dtype}[R,{g},{d}]");
                let text = format!(
                    "{head}, x: f32[T,{g},{d}], y: f32[T,{g},{d}], lo: i32[T], hi: i32[T]) {{
                        %k = cast(mul(x, 0.5)) {{to={dtype}}}
                        return attention(q, %k, cast(y) {{to={dtype}}}, {attention}
                    }}"
                );
                check_rows(&text, [1, 2, 16, 17, 70], &target);
                let text = format!(
                    "{head}, x: f32[T,{g},{d}], y: f32[T,{g},{d}], state k: {kv}, state v: {kv}, i: i32[T], lo: i32[T], \
                     hi: i32[T]) {{
                        %k = scatter(k, i, cast(mul(x, 0.5)) {{to={dtype}}})
                        %v = scatter(v, i, cast(y) {{to={dtype}}})
                        return attention(q, %k, %v, {attention}, %k, %v
                    }}"
                );
                check_rows(&text, [1, 2, 16, 17, 70], &target);
            }
        }
    }
}

#[test]
fn attention_over_states_of_integers() {
    for target in targets() {
        for (h, g, d) in [(1, 1, 3), (2, 2, 1), (4, 2, 20), (8, 2, 64), (5, 1, 96)] {
            let round =
                |x: &str| format!("fake_quantize({x}) {{element=q8, group={d}, scale=f32}}");
            let (k, v) = (round("mul(x, 0.5)"), round("y"));
            for cap in ["0.0", "5.0"] {
                let text = format!(
                    "sym R <= 256\nsym T <= 256\ngraph(q: f32[T,{h},{d}], x: f32[T,{g},{d}], y: f32[T,{g},{d}], \
                     state k: f32[R,{g},{d}], state v: f32[R,{g},{d}], i: i32[T], lo: i32[T], hi: i32[T]) {{
                        %k = scatter(k, i, {k})
                        %v = scatter(v, i, {v})
                        return attention(q, %k, %v, lo, hi) {{scale=0.7, softcap={cap}}}, %k, %v
                    }}"
                );
                check_rows(&text, [1, 2, 16, 17, 70, 133], &target);
            }
            // A state that something else reads, too, holds the numbers themselves.
            let text = format!(
                "sym L <= 4\nsym R <= 256\nsym T <= 256\ngraph(x: f32[T,{g},{d}], state k: f32[R,{g},{d}], i: i32[T], \
                 j: i32[L]) {{
                    %k = scatter(k, i, {k})
                    return gather(%k, j), %k
                }}"
            );
            check_rows(&text, [1, 2, 17], &target);
        }
    }
}

#[test]
fn attention_reads_what_other_kernels_left() {
    // Parts of one product; rotated and transposed heads.
    for text in [
        "graph(x: f32[T,36], lo: i32[T], hi: i32[T]) {
            %q = reshape(slice(x) {axis=1, start=0, end=12}) {shape=[T,3,4]}
            %k = reshape(slice(x) {axis=1, start=12, end=24}) {shape=[T,3,4]}
            %v = reshape(slice(x) {axis=1, start=24, end=36}) {shape=[T,3,4]}
            return attention(%q, %k, %v, lo, hi) {scale=0.5, softcap=0.0}
        }",
        "graph(x: f32[T,24], v: f32[T,4,3], lo: i32[T], hi: i32[T]) {
            %q = transpose(reshape(slice(x) {axis=1, start=0, end=12}) {shape=[T,4,3]}) {perm=[0,2,1]}
            %k = reshape(slice(x) {axis=1, start=12, end=24}) {shape=[T,3,4]}
            return attention(%q, %k, transpose(v) {perm=[0,2,1]}, lo, hi) {scale=0.5, softcap=0.0}
        }",
    ] {
        let text = format!("sym T <= 256\n{text}");
        for target in targets() {
            check_rows(&text, [1, 2, 7, 33], &target);
        }
    }
}

#[test]
fn products_of_few_bits_of_all_shapes() {
    let rows = || (1..=9).chain([14, 15, 33, 64, 66, 129]);
    let round = |x: &str, element: Element, scale: &str| {
        format!("fake_quantize({x}) {{element={element}, group=32, scale={scale}}}")
    };
    for target in targets() {
        for element in crate::ELEMENTS.iter().copied() {
            // Rows of 16 bits, too, where there are kernels for them.
            let codes = match element {
                Element::U4 | Element::Q3 if element.meets(Element::Q16, 32) => Element::Q16,
                _ => Element::Q8,
            };
            let (x, a, b) = (
                round("x", codes, "f32"),
                round("a", element, "f16"),
                round("b", element, "f16"),
            );
            let read = round("y", codes, "f32");
            for (k, n) in [(32, 16), (64, 70), (96, 1), (320, 128)] {
                for body in [
                    // f32 rows, rows of integers, two products with one body, parts that share rows.
                    format!("linear(x, {a})"),
                    format!("linear({x}, {a})"),
                    format!("swiglu(linear({x}, {a}), linear({x}, {b}))"),
                    format!("add(linear({x}, {a}), linear(y, {b}))"),
                    // Rows of integers that something else reads, too; integers that meet other weights.
                    format!("%r = {x}\nreturn linear(%r, {a}), %r"),
                    format!("linear({x}, b)"),
                    format!("linear({read}, concat(a, {b}) {{axis=0}})"),
                ] {
                    let body = match body.contains("return") {
                        true => body,
                        false => format!("return {body}"),
                    };
                    let text = format!(
                        "sym T <= 256
                        graph(x: f32[T,{k}], y: f32[T,{k}], weight a: f32[{n},{k}], weight b: f32[{n},{k}]) {{
                            {body}
                        }}"
                    );
                    check_rows(&text, rows(), &target);
                }
            }
        }
    }
}

/// Weights whose integers and scales are given: joined, and beside ones that are rounded where they are packed.
#[test]
fn products_of_given_integers() {
    for target in targets() {
        for element in crate::ELEMENTS.iter().copied() {
            for (k, n) in [(64, 70), (96, 1), (320, 128)] {
                let zeros = |i: u8| match element.zero() {
                    true => format!(", z{i}"),
                    false => String::new(),
                };
                let given = |i: u8| {
                    let zeros = zeros(i);
                    format!("dequantize(c{i}, s{i}{zeros}) {{element={element}, group=32}}")
                };
                let (a, b) = (given(0), given(1));
                for body in [
                    format!("linear(x, {a})"),
                    // Bounded in between: what follows would multiply the errors of large sums.
                    format!("swiglu(tanh(linear(x, {a})), tanh(linear(x, {b})))"),
                    format!("linear(x, concat({a}, {b}) {{axis=0}})"),
                    format!(
                        "linear(fake_quantize(x) {{element=q8, group=32, scale=f32}}, concat({a}, \
                         fake_quantize(w) {{element={element}, group=32, scale=f16}}) {{axis=0}})"
                    ),
                    format!("linear(tanh(linear(x, {a})), transpose({b}) {{perm=[1,0]}})"),
                ] {
                    // Large numbers, whose sums are rounded by more than what is allowed of small results.
                    let body = match element {
                        Element::Q16 => format!("mul({body}, 0.01)"),
                        Element::E4M3 => format!("mul({body}, 0.00001)"),
                        _ => body,
                    };
                    let (groups, held) = (k / 32, element.storage());
                    let text = format!(
                        "sym T <= 256
                        graph(x: f32[T,{k}], weight c0: {held}[{n},{k}], weight s0: f16[{n},{groups}],
                            weight c1: {held}[{n},{k}], weight s1: f16[{n},{groups}], weight w: f32[{n},{k}],
                            weight z0: i8[{n},{groups}], weight z1: i8[{n},{groups}]) {{
                            return {body}
                        }}"
                    );
                    check_rows(&text, [1, 2, 7, 33], &target);
                }
            }
        }
    }
}

#[test]
fn states_are_kept_however_they_are_read() {
    let attention = "attention(q, %k, %v, lo, hi) {scale=0.5, softcap=0.0}";
    // Read by attention alone, from before and after an update; and by others too.
    for (heads, body) in [
        (
            2,
            format!("%k = scatter(a, rows, x) %v = scatter(b, rows, y) return {attention}, %k, %v"),
        ),
        (
            1,
            format!("%k = scatter(a, rows, x) %v = scatter(b, rows, y) return {attention}, %k, %v"),
        ),
        (
            2,
            format!("%k = a %v = scatter(b, rows, y) return {attention}, scatter(%k, rows, x), %v"),
        ),
        (
            2,
            format!("%k = scatter(a, rows, x) %v = %k return {attention}, %k, scatter(b, rows, y)"),
        ),
        (
            2,
            format!(
                "%k = scatter(a, rows, x) %v = scatter(b, rows, y) return add({attention}, gather(%v, rows)), %k, %v"
            ),
        ),
        (
            2,
            format!(
                "%k = scatter(a, rows, gather(b, rows)) %v = b return {attention}, %k, scatter(b, rows, y)"
            ),
        ),
    ] {
        for dim in [3, 16, 20] {
            let body = body.replace(" %v", "\n%v").replace(" return", "\nreturn");
            let text = format!(
                "sym T <= 300
                sym R <= 400
                graph(q: f32[T,2,{dim}], x: f32[T,{heads},{dim}], y: f32[T,{heads},{dim}], rows: i32[T], lo: i32[T], hi: i32[T],
                      state a: f32[R,{heads},{dim}], state b: f32[R,{heads},{dim}]) {{
                    {body}
                }}"
            );
            for target in targets() {
                check_rows(&text, [1, 7, 140, 270], &target);
            }
        }
    }
}

#[test]
fn weights_widened_give_the_same_values() {
    let text = "sym T <= 64\ngraph(x: f32[T,20], weight a: bf16[35,20], weight b: f16[35], weight t: bf16[9,35], i: i32[T]) {
        return add(add(linear(x, cast(a) {to=f32}), cast(b) {to=f32}), gather(cast(t) {to=f32}, i))
    }";
    let graph = parse(text);
    let sizes = [("T", 5)];
    let tensors = random::tensors(&graph, 1, &at(&sizes));
    for target in targets() {
        let [stored, wide]: [Vec<Tensor>; 2] = [Weights::Stored, Weights::F32].map(|weights| {
            let options = Options {
                precision: Precision {
                    weights,
                    ..Precision::default()
                },
                ..stored(&target)
            };
            let compiled = Compiled::new(text, &graph, &tensors, &sizes, &options).unwrap();
            compiled.compare(&tensors, &sizes);
            compiled.run(&tensors, &sizes, 1)
        });
        assert!(
            !crate::ORDERED || stored[0].data == wide[0].data,
            "{target}"
        );
    }
}

#[test]
fn what_cannot_be_addressed_is_refused() {
    let target = targets().pop().unwrap();
    for (text, reason) in [
        (
            "sym T <= 8\ngraph(x: f32[T,3], y: f32[T,3]) { return matmul(transpose(x) {perm=[1,0]}, y) }",
            "no kernel",
        ),
        (
            "graph(x: f32[4000000000,4000000000]) { return exp(x) }",
            "no view",
        ),
    ] {
        let graph = parse(text);
        let error = Compiled::new(text, &graph, &[], &[], &stored(&target)).err();
        assert!(error.is_some(), "{text}: {reason}");
    }
    let old =
        "sym T <= 8\nsym R <= 16\ngraph(state s: f32[R,3], i: i32[T], x: f32[T,3], j: i32[T]) {
        %new = scatter(s, i, x)
        return %new, add(gather(s, j), gather(%new, j))
    }";
    // Either the old rows are read first, or the compiler says that it cannot.
    let _ = check(old, &parse(old), 1, &[("T", 2), ("R", 5)], &target);
}
