//! The text form: it reads back, its errors say where and what, and no text makes the parser panic.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ir::{Attr, Graph, Program, Role, Sym, Type, ops, random};
use proptest::prelude::*;

/// Every file of `tests/ir`, by name.
fn examples() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/ir");
    let files = std::fs::read_dir(folder).unwrap();
    let mut examples: Vec<(String, String)> = files
        .map(|f| f.unwrap())
        .map(|f| {
            let text = std::fs::read_to_string(f.path()).unwrap();
            (f.file_name().to_string_lossy().into(), text)
        })
        .collect();
    examples.sort();
    examples
}

const PROGRAM: &str = r#"
sym L <= 4
sym R <= 64
sym T <= 32

input tokens: i32[T]
input select: i32[L]
weight embed.weight: bf16[16,8]
weight "0.weight": f32[8,8]
constant inv_freq: f32[4] = [1.0, 0.1, 1e-5, -inf]
state k.0: f32[R,8]

graph embed(tokens: i32[T], weight table: bf16[16,8]) {
  %0: bf16[T,8] = gather(table, tokens)
  %1: f32[T,8] = cast(%0) {to=f32}
  return %1
}

graph "a layer"(x: f32[T,8], state cache: f32[R,8], rows: i32[T], weight "weight": f32[8,8]) {
  %0: f32[T,8] = acc() {index=0, ty=f32[T,8]}
  %1: f32[T,8] = mul(%0, 0.5)
  %2: f32[8,8] = transpose("weight") {perm=[1,0]}
  %3: f32[T,8] = gemm(x, %2, %1)
  %4: f32[R,8] = scatter(cache, rows, %3)
  return %3, %4
}

call embed(tokens, @embed.weight)
call "a layer"(#0.0, $k.0, tokens, @"0.weight") updates 1 -> k.0
output hidden = #1.0
"#;

#[test]
fn a_program_prints_as_it_was_written() {
    let program: Program = PROGRAM.parse().unwrap();
    assert_eq!(program.verify(), []);
    assert_eq!(program.to_string(), PROGRAM.trim_start());
    assert_eq!(program.to_string().parse::<Program>().unwrap(), program);
}

#[test]
fn examples_read_back() {
    assert!(examples().len() >= 6);
    for (name, text) in examples() {
        let graph: Graph = text.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
        let printed = graph.to_string();
        assert_eq!(printed.parse::<Graph>().unwrap(), graph, "{name}");
    }
}

#[test]
fn odd_values_read_back() {
    let mut g = Graph::new();
    let t = Sym::new("T", 7);
    let odd = [
        "weight",
        "state",
        "inf",
        "NaN",
        "3",
        "",
        "a b",
        "\"\\\n\u{301}é",
        "-x",
        "x-y/z.0",
    ];
    let ty = Type::new(ir::DType::F32, [&t]);
    let odd = odd.map(|name| g.input(name, Role::State, ty.clone()));
    let mut sum = odd[0];
    for v in odd {
        sum = g.add(ops::Add, &[sum, v]).unwrap();
    }
    for x in [
        0.0,
        -0.0,
        f64::NAN,
        f64::INFINITY,
        f64::MIN_POSITIVE,
        1e300,
        -1.0 / 3.0,
    ] {
        let x = g.constant(x);
        sum = g.add(ops::Mul, &[sum, x]).unwrap();
    }
    let integer = ops::Const {
        value: 3.0.into(),
        dtype: ir::DType::I32,
    };
    let integer = g.add(integer, &[]).unwrap();
    g.outputs = vec![sum, sum, integer];
    let printed = g.to_string();
    assert_eq!(printed.parse::<Graph>().unwrap(), g, "{printed}");
    let empty = Graph::new();
    assert_eq!(empty.to_string().parse::<Graph>().unwrap(), empty);
}

#[test]
fn types_and_attributes_read_back() {
    let symbols = [Sym::new("T", 8), Sym::new("P", 8)];
    for text in ["f32[]", "bf16[T]", "i32[2*T+1,4]", "bool[-3*T+P*T+2,P*P]"] {
        assert_eq!(Type::parse(text, &symbols).unwrap().to_string(), text);
    }
    for text in [
        "3", "-3", "1e-5", "-0.0", "NaN", "inf", "[]", "[T,4]", "f16", "f16[T]",
    ] {
        assert_eq!(Attr::parse(text, &symbols).unwrap().to_string(), text);
    }
}

#[test]
fn errors_say_where_and_what() {
    let check = |text: &str, expected: &str| {
        assert_eq!(
            text.parse::<Graph>().unwrap_err().to_string(),
            expected,
            "{text}"
        );
    };
    check(
        "",
        "line 1, column 1: found the end of the text, expected `graph`",
    );
    check(
        "graph(x: f64[2]) { return x }",
        "line 1, column 10: found `f64`, expected an element type: f32, f16, bf16, i32 or bool",
    );
    check(
        "graph(x: f32[T]) { return x }",
        "line 1, column 14: found `T`, expected a number or a symbol declared by `sym`",
    );
    check(
        "graph(x: f32[2], x: f32[3]) { return x }",
        "line 1, column 18: found input x a second time",
    );
    check(
        "graph(x: f32[2]) {\n  %0: f32[3] = exp(x)\n  return %0\n}",
        "line 2, column 7: found type f32[3], expected f32[2], which the op gives",
    );
    check(
        "graph(x: f32[2]) {\n  ; a comment\n  return exp(y)\n}",
        "line 3, column 14: found y, expected an input's name",
    );
    check(
        "graph(x: f32[2]) { return expp(x) }",
        "line 1, column 27: found expp, expected an op's name",
    );
    check(
        "graph(x: f32[2]) { return %1 }",
        "line 1, column 27: found %1, expected an earlier value",
    );
    check(
        "graph(x: f32[2]) { return add(x) }",
        "line 1, column 27: add: wants 2 arguments, has 1 (arguments: [f32[2]])",
    );
    check(
        "graph(x: f32[2]) { return rms_norm(x) {epsilon=1e-5} }",
        "line 1, column 40: found `epsilon`, expected an attribute of rms_norm: eps",
    );
    check(
        "graph(x: f32[2]) { return rms_norm(x) {eps=1} }",
        "line 1, column 39: found [1], expected other kinds of eps for rms_norm",
    );
    check(
        "graph(x: f32[2]) { return slice(x) {axis=0, start=0} }",
        "line 1, column 36: found no attribute end of slice",
    );
    check(
        "graph(x: f32[-2]) { return x }",
        "line 1, column 13: found a negative size",
    );
    check(
        "graph(x: f32[1,1,1,1,1,1,1,1,1]) { return x }",
        "line 1, column 13: found rank 9, expected at most 8",
    );
    check(
        "graph(x: f32[9223372036854775807]) { return x }",
        "line 1, column 14: found 9223372036854775807, expected at most 1099511627776",
    );
    check(
        &format!("graph(x: f32[2]) {{ return {}x", "exp(".repeat(100_000)),
        "line 1, column 287: found terms nested over 64 deep",
    );
    check(
        "graph(x: f32[2]) { return x } }",
        "line 1, column 31: found `}`, expected the end of the text",
    );
    check(
        "graph(\"x",
        "line 1, column 7: found a name without its closing quote",
    );
    let constant = "constant c: f32[3] = [1.0]".parse::<Program>();
    assert_eq!(
        constant.unwrap_err().to_string(),
        "line 1, column 10: found 1 numbers, expected a f32[3] of them"
    );
}

/// A text with some characters replaced, removed, doubled or put elsewhere.
fn mangled() -> impl Strategy<Value = String> {
    let mut texts: Vec<String> = examples().into_iter().map(|(_, text)| text).collect();
    texts.push(PROGRAM.into());
    let edit = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        0..5u8,
    );
    let edits = prop::collection::vec(edit, 1..8);
    (prop::sample::select(texts), edits).prop_map(|(text, edits)| {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, from, how) in edits {
            let (at, from) = (at.index(chars.len()), from.index(chars.len()));
            match how {
                0 => chars[at] = chars[from],
                1 => drop(chars.remove(at)),
                2 => chars.insert(at, chars[from]),
                3 => drop(chars.drain(at.min(from)..at.max(from).min(at.min(from) + 9))),
                _ => chars.insert(at, '9'),
            }
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mangled_text_is_refused_or_read_without_panic(text in mangled()) {
        if let Ok(graph) = text.parse::<Graph>() {
            prop_assert_eq!(graph.to_string().parse::<Graph>().unwrap(), graph);
        }
        if let Ok(program) = text.parse::<Program>() {
            prop_assert_eq!(program.to_string().parse::<Program>().unwrap(), program.clone());
            program.verify();
        }
    }

    #[test]
    fn random_graphs_read_back(seed: u64, size in 0..40usize) {
        let graph = random::graph(seed, size);
        prop_assert_eq!(graph.to_string().parse::<Graph>().unwrap(), graph);
    }

    #[test]
    fn any_text_is_refused_without_panic(text in any::<String>()) {
        prop_assert!(text.parse::<Graph>().is_err());
        let _ = text.parse::<Program>();
        let _ = Type::parse(&text, &[]);
        let _ = Attr::parse(&text, &[]);
    }
}
