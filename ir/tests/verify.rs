//! Each rule of well-formed graphs and programs, broken once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ir::{DType, Graph, Program, Role, Sym, Type, ops};

fn check(text: &str, expected: &[&str]) {
    let graph: Graph = text.parse().unwrap();
    let found: Vec<String> = graph.verify().iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn graphs() {
    check("graph(x: f32[2]) { return exp(x) }", &[]);
    check("graph(x: f32[2]) { return }", &["outputs: there are none"]);
    check(
        "sym T <= 4\ngraph(weight w: f32[T]) { return w }",
        &["w: weight of type f32[T]: its shape is not known"],
    );
    check(
        "graph(table: f32[4,2], i: i32[1], x: f32[1,2]) { return scatter(table, i, x) }",
        &["%0: scatters into table, which is no state"],
    );
    check(
        "graph(state table: f32[4,2], i: i32[1], x: f32[1,2]) {
           return scatter(scatter(table, i, x), i, x)
         }",
        &[],
    );
}

#[test]
fn bodies() {
    let kernel = |body: &str| {
        format!(
            "graph(x: f32[3,4], weight w: f32[4,2], b: f32[3,2]) {{
               %acc = acc() {{index=0, ty=f32[3,2]}}
               {body}
             }}"
        )
    };
    check(&kernel("return gemm(x, w, silu(add(%acc, b)))"), &[]);
    check(&kernel("return map(b, softmax(%acc))"), &[]);
    check(&kernel("return gemm(x, w, b)"), &[]);
    check(
        &kernel("return silu(%acc)"),
        &["%0: stands outside the body of a kernel"],
    );
    check(
        &kernel("return gemm(x, w, %acc), %acc"),
        &["%0: stands outside the body of a kernel"],
    );
    check(
        &kernel("return gemm(x, w, mul(acc() {index=1, ty=f32[3,2]}, %acc))"),
        &["%3: has 1 accumulators, its body uses 1"],
    );
    check(
        &kernel("return gemm(x, w, reshape(acc() {index=0, ty=f32[6]}) {shape=[3,2]})"),
        &[
            "%2: acc 0 of type f32[6] stands for f32[3,2]",
            "%2: has reshape in its body",
        ],
    );
    check(
        &kernel("return gemm(x, w, softmax(%acc))"),
        &["%2: has softmax in its body"],
    );
    check(
        &kernel("return map(b, linear(%acc, %acc))"),
        &["%2: has linear in its body"],
    );
    // A kernel in a leaf of a body binds its own.
    check(
        &kernel("return gemm(x, w, add(%acc, gemm(x, w, relu(%acc))))"),
        &[],
    );
}

#[test]
fn symbols() {
    let mut g = Graph::new();
    let sizes = [Sym::new("T", 4), Sym::new("T", 8), Sym::new("a-b", 8)];
    for (i, size) in sizes.iter().enumerate() {
        let x = g.input(i.to_string(), Role::Data, Type::new(DType::F32, [size]));
        let y = g.add(ops::Exp, &[x]).unwrap();
        g.outputs.push(y);
    }
    let found: Vec<String> = g.verify().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "symbol T: is bounded by 4 and by 8",
            "symbol \"a-b\": has a name of other characters than letters, digits and `_`",
        ]
    );
}

#[test]
fn an_output_of_another_graph() {
    let mut g: Graph = "graph(x: f32[2]) { return exp(exp(x)) }".parse().unwrap();
    let foreign = g.outputs[0];
    g = "graph(x: f32[2]) { return x }".parse().unwrap();
    g.outputs.push(foreign);
    assert_eq!(
        g.verify()[0].to_string(),
        "outputs: value 2 is not of this graph"
    );
}

#[test]
fn programs() {
    let check = |lines: &str, expected: &[&str]| {
        let text = format!(
            "input x: f32[2]
             weight w: f32[2]
             state s: f32[2]
             graph step(x: f32[2], weight w: f32[2], state s: f32[2]) {{
               return mul(x, w), add(x, s)
             }}
             {lines}"
        );
        let program: Program = text.parse().unwrap();
        let found: Vec<String> = program.verify().iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{lines}");
    };
    check("call step(x, @w, $s) updates 1 -> s\noutput y = #0.0", &[]);
    check("call stop(x)", &["call 0 of stop: no such graph"]);
    check(
        "call step(x, @w)",
        &["call 0 of step: has 2 arguments, the graph wants 3"],
    );
    check(
        "call step(x, @v, $s)",
        &["call 0 of step: argument w is @v, which does not exist"],
    );
    check(
        "call step(x, x, $s)",
        &["call 0 of step: argument w has role Weight, x has Data"],
    );
    check(
        "call step(#0.0, @w, $s)",
        &["call 0 of step: argument x is #0.0, which is not computed yet"],
    );
    check(
        "call step(x, @w, $s) updates 2 -> s",
        &["call 0 of step: output 2 cannot replace state s"],
    );
    check(
        "state t: f32[2]\ncall step(x, @w, $s) updates 1 -> t",
        &["call 0 of step: replaces state t without taking it"],
    );
    check("output y = #3.0", &["output y: #3.0 does not exist"]);
    check(
        "constant c: i32[2] = [1.0, 2.0]",
        &["constant c: has 2 f32 numbers for i32[2]"],
    );
    check(
        "graph none() { return }",
        &["graph none, outputs: there are none"],
    );
}
