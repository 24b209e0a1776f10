//! The optimizer on whole models: what comes out is in normal form, equal to what went in, small, and the same each
//! time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::{
    checkpoint::Checkpoint,
    models,
    optimize::{
        self, Options, Reports, Stop,
        ablation::{Ablation, themes},
        egraph, rules,
        verdict::Verdict,
    },
};
use ir::{
    Class, DType, Dim, Graph, Node, Op, OpKind, Program, Role, Sym, Tensor, Type, Value, feed, ops,
};
use std::{path::Path, sync::LazyLock};

const FIXTURES: &[&str] = &[
    "bert_mlm",
    "bert_model",
    "bert_seqcls",
    "bert_tokcls",
    "distilbert_tokcls",
    "llama_gqa",
    "llama_tied_llama3",
    "mistral_window",
    "qwen2",
    "qwen3",
    "roberta_seqcls",
];

fn program(fixture: &str) -> Program {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let checkpoint = Checkpoint::open(&fixtures.join(fixture)).unwrap();
    models::build(checkpoint.config(), &checkpoint).unwrap().0
}

/// Each fixture's program, its optimized form and the reports.
static OPTIMIZED: LazyLock<Vec<(&str, Program, Program, Reports)>> = LazyLock::new(|| {
    let optimized = |name: &&'static str| {
        let built = program(name);
        let (better, reports) = optimize::program(&built, &options(name)).unwrap();
        (*name, built, better, reports)
    };
    FIXTURES.iter().map(optimized).collect()
});

fn decode() -> Options {
    Options::at([("T", 1), ("L", 1), ("R", 512)])
}

fn encode() -> Options {
    Options::at([("T", 128), ("B", 1)])
}

fn options(fixture: &str) -> Options {
    if fixture.contains("bert") {
        encode()
    } else {
        decode()
    }
}

/// Values known at compile time.
fn constant(g: &Graph) -> Vec<bool> {
    let mut known = vec![false; g.len()];
    for v in g.values() {
        known[v.index()] = match g.node(v) {
            Node::Input { role, .. } => *role == Role::Weight,
            Node::Op { op, args } => {
                !op.kind().binds()
                    && op.kind() != OpKind::Acc
                    && args.iter().all(|a| known[a.index()])
            }
        };
    }
    known
}

/// Panics unless the graph is in normal form.
fn assert_normal(g: &Graph) {
    let (constant, open) = (constant(g), g.open());
    for v in g.cone(&g.outputs) {
        let Some(op) = g.op(v) else { continue };
        if constant[v.index()] {
            continue;
        }
        let args = g.args(v);
        if open[v.index()] {
            let kind = op.kind();
            let fusable = matches!(kind.class(), Class::Elementwise | Class::Rowwise);
            assert!(fusable || kind == OpKind::Acc, "{op:?} in a body\n{g}");
            continue;
        }
        match op {
            Op::Map(_) | Op::Attention(_) | Op::Reshape(_) => {}
            Op::Slice(s) => assert_eq!(s.axis as usize + 1, g.ty(v).shape.len(), "{g}"),
            Op::Gemm(_) => {
                let weights = &args[1..args.len() - 1];
                assert!(weights.iter().all(|w| constant[w.index()]), "{g}");
                for b in body(g, args[args.len() - 1]) {
                    let kind = g.op(b).unwrap().kind();
                    assert!(
                        kind == OpKind::Acc || kind.class() == Class::Elementwise,
                        "{kind:?} in a gemm's body\n{g}"
                    );
                }
            }
            _ => panic!("{op:?} is no kernel\n{g}"),
        }
    }
}

/// Open values of a kernel's body, without the bodies of the kernels that it reads.
fn body(g: &Graph, root: Value) -> Vec<Value> {
    let open = g.open();
    let (mut found, mut todo) = (vec![], vec![root]);
    while let Some(v) = todo.pop() {
        if open[v.index()] && !found.contains(&v) {
            found.push(v);
            todo.extend(g.args(v));
        }
    }
    found
}

fn kernels(g: &Graph) -> usize {
    let kinds = g
        .cone(&g.outputs)
        .into_iter()
        .filter_map(|v| g.op(v))
        .map(Op::kind);
    kinds
        .filter(|k| matches!(k, OpKind::Map | OpKind::Gemm | OpKind::Attention))
        .count()
}

#[test]
fn every_model_becomes_few_kernels() {
    for (name, _, better, reports) in &*OPTIMIZED {
        for (graph, g) in &better.graphs {
            assert_normal(g);
            let r = &reports[graph];
            assert_eq!(r.stop, Stop::Saturated, "{name}: {graph}");
            assert!(r.after <= r.before, "{name}: {graph}");
            let most = match (&**graph, name.contains("bert")) {
                // One more for the first row of the window.
                ("layer", false) => 10 + usize::from(name.contains("window")),
                ("layer", true) => 7,
                _ => 4,
            };
            assert!(
                kernels(g) <= most,
                "{name}: {graph} takes {} kernels\n{g}",
                kernels(g)
            );
        }
    }
}

/// Inputs for a graph: small random numbers, and indices that make sense under the names that sessions feed.
fn inputs(g: &Graph, at: &dyn Fn(&Sym) -> i64) -> Vec<Tensor> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut unit = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    let rows = |v: &Value| {
        let (name, _) = g.as_input(*v)?;
        let table = name.contains("token_type_embeddings");
        table.then(|| g.ty(*v).at(at)[0])
    };
    let types = g.inputs().iter().find_map(rows).unwrap_or(1);
    let tensor = |v: &Value| {
        let (name, ty) = (g.as_input(*v).unwrap().0, g.ty(*v));
        let shape = ty.at(at);
        Tensor::from_fn(&shape, |index| match (ty.dtype, &**name) {
            (DType::I32, feed::HI | feed::ENDS) => index[0] as f64 + 1.0,
            (DType::I32, feed::LO) => (index[0] / 2) as f64,
            (DType::I32, feed::TOKEN_TYPES) => (index[0] % types) as f64,
            (DType::I32, feed::SELECT | feed::STARTS) => 0.0,
            (DType::I32, _) => index[0] as f64,
            (dtype, _) => dtype.round(unit()),
        })
    };
    g.inputs().iter().map(tensor).collect()
}

fn assert_equal(name: &str, a: &Graph, b: &Graph) {
    for tokens in [1, 3] {
        let at = |s: &Sym| if &*s.name == "R" { 5 } else { tokens };
        let given = inputs(a, &at);
        let (a, b) = (a.eval(&given, &at).unwrap(), b.eval(&given, &at).unwrap());
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(&b) {
            let error = a.max_abs_diff(b);
            assert!(error < 1e-9, "{name} at {tokens} tokens: off by {error}");
        }
    }
}

#[test]
fn values_stay() {
    for (name, p, better, _) in &*OPTIMIZED {
        assert_eq!(better.verify(), []);
        for (graph, g) in &p.graphs {
            assert_equal(&format!("{name} {graph}"), g, &better.graphs[graph]);
        }
    }
}

#[test]
fn models_written_in_primitives_become_the_same_kernels() {
    for (name, built, better, _) in &*OPTIMIZED {
        for (graph, g) in &built.graphs {
            let named = &better.graphs[graph];
            let raw = g.lower(|_| false).unwrap();
            let (found, report) = optimize::graph(&raw, &options(name)).unwrap();
            assert_normal(&found);
            assert_eq!(
                kernels(&found),
                kernels(named),
                "{name}: {graph}\n{raw}\n{found}"
            );
            assert_eq!(report.stop, Stop::Saturated);
        }
    }
}

#[test]
fn each_theme_can_be_left_out_and_is_missed_where_it_matters() {
    // Kernels of all graphs: with every rule, then without each theme.
    let check = |name: &str, expected: &[(&str, usize)]| {
        let (_, built, whole, _) = OPTIMIZED.iter().find(|(n, ..)| *n == name).unwrap();
        let count = |p: &Program| p.graphs.values().map(kernels).sum::<usize>();
        let mut found = vec![("", count(whole))];
        for theme in themes().into_iter().filter(|t| *t != rules::KERNELS) {
            let mut options = options(name);
            options.without = theme.parse().unwrap();
            let (without, reports) = optimize::program(built, &options).unwrap();
            for (graph, g) in &without.graphs {
                assert_normal(g);
                assert_equal(
                    &format!("{name} {graph} without {theme}"),
                    &built.graphs[graph],
                    g,
                );
            }
            for rule in rules::all().iter().filter(|r| r.theme == theme) {
                assert_eq!(reports["layer"].fired[&rule.name], 0, "{}", rule.name);
            }
            found.push((theme, count(&without)));
        }
        assert_eq!(found, expected, "{name}");
    };
    check(
        "llama_gqa",
        &[
            ("", 15),
            ("algebra", 15),
            ("attention", 15),
            ("composites", 15),
            ("embedding", 16),
            ("folding", 15),
            ("fusion", 25),
            ("layout", 16),
            ("merge", 17),
            ("rotation", 15),
        ],
    );
    check(
        "bert_model",
        &[
            ("", 12),
            ("algebra", 12),
            ("attention", 12),
            ("composites", 12),
            ("embedding", 12),
            ("folding", 12),
            ("fusion", 30),
            ("layout", 12),
            ("merge", 14),
            ("rotation", 12),
        ],
    );
}

#[test]
fn rotations_of_values_go_into_the_weight_that_they_come_from() {
    let mut built = program("bert_model");
    let layer = &built.graphs["layer"];
    let rotated = layer.rebuild(|g, v, op, args| {
        let mut args = args.to_vec();
        let of = layer.args(v).first().and_then(|x| layer.args(*x).first());
        let heads = of.and_then(|x| layer.op(*x)).map(Op::kind);
        if let (Op::Linear(_), Some(OpKind::Attention)) = (op, heads) {
            args[0] = g.add(ops::Hadamard { block: 8 }, &args[..1])?;
            let few = ops::FakeQuantize {
                element: ir::Element::Q4,
                group: 32,
                scale: DType::F16,
            };
            args[1] = g.add(few, &args[1..])?;
        }
        g.add(op.clone(), &args)
    });
    let rotated = rotated.unwrap();
    // Of data: what is done with weights alone is done once.
    let count = |g: &Graph| {
        let data = |v: &Value| match g.node(*v) {
            Node::Input { role, .. } => *role == Role::Data,
            Node::Op { op, .. } => matches!(op, Op::Acc(_)),
        };
        let all = g.cone(&g.outputs).into_iter();
        let rotations = all.filter(|v| matches!(g.op(*v), Some(Op::Hadamard(_))));
        rotations.filter(|v| g.cone(&[*v]).iter().any(data)).count()
    };
    assert_eq!(count(&rotated), 1);
    *built.graphs.get_mut("layer").unwrap() = rotated.clone();
    for (without, left) in [(Ablation::default(), 0), ("rotation".parse().unwrap(), 1)] {
        let options = Options {
            without,
            ..options("bert_model")
        };
        let (better, reports) = optimize::program(&built, &options).unwrap();
        let layer = &better.graphs["layer"];
        assert_normal(layer);
        assert_equal("a rotated layer", &rotated, layer);
        assert_eq!(count(layer), left, "{layer}");
        let fired = |rule: &str| reports["layer"].fired[rule] > 0;
        for rule in rules::all().iter().filter(|r| r.theme == "rotation") {
            assert_eq!(fired(&rule.name), left == 0, "{}", rule.name);
        }
    }
}

#[test]
fn what_cannot_be_left_out_is_said() {
    let check = |text: &str, expected: &str| {
        let error = text.parse::<Ablation>().unwrap_err().to_string();
        assert_eq!(error, expected, "{text}");
    };
    let themes = "algebra, attention, composites, embedding, folding, fusion, kernels, layout, merge, rotation";
    let unknown =
        |name: &str| format!("`{name}`: there is no such theme or rule; the themes are {themes}");
    check("", &unknown(""));
    check("fusion,speed", &unknown("speed"));
    check(
        "kernels",
        "`kernels`: without it no op becomes a kernel, and nothing compiles; the other themes are algebra, attention, \
         composites, embedding, folding, fusion, layout, merge, rotation",
    );
    let both: Ablation = "merge-projections, fusion".parse().unwrap();
    let left = rules::all().into_iter().filter(|r| both.leaves_out(r));
    assert!(
        left.clone().count() > 20 && left.clone().any(|r| r.theme == "merge"),
        "{left:?}"
    );
}

#[test]
fn the_same_input_gives_the_same_output() {
    for name in ["llama_gqa", "bert_model"] {
        let p = program(name);
        let (a, first) = optimize::program(&p, &options(name)).unwrap();
        let (b, second) = optimize::program(&p, &options(name)).unwrap();
        assert_eq!(a.to_string(), b.to_string());
        assert_eq!(first, second);
    }
}

#[test]
fn depth_costs_nothing() {
    let shallow = program("llama_gqa");
    let mut deep = shallow.clone();
    let layer = deep
        .calls
        .iter()
        .find(|c| &*c.graph == "layer")
        .unwrap()
        .clone();
    deep.calls.extend(std::iter::repeat_n(layer, 80));
    let work = |p: &Program| {
        let (_, reports) = optimize::program(p, &decode()).unwrap();
        reports
            .values()
            .map(|r| r.nodes * r.iterations)
            .sum::<usize>()
    };
    assert!(work(&deep) * 10 <= work(&shallow) * 12);
}

#[test]
fn reports_name_every_rule() {
    let found = OPTIMIZED.iter().find(|(name, ..)| *name == "llama_gqa");
    let fired = &found.unwrap().3["layer"].fired;
    for rule in compiler::optimize::rules::all() {
        assert!(fired.contains_key(&rule.name), "{}", rule.name);
    }
    assert!(fired["merge-projections"] > 0 && fired["gemm-then-gelu"] == 0);
}

#[test]
fn what_no_kernel_computes_is_named() {
    let mut g = Graph::new();
    let t = Sym::new("T", 8);
    let x = g.input(
        "x",
        Role::Data,
        Type::new(DType::F32, [Dim::from(&t), 4.into()]),
    );
    let turned = ops::Transpose {
        perm: vec![1.into(), 0.into()],
    };
    let turned = g.add(turned, &[x]).unwrap();
    g.outputs = vec![g.add(ops::Tanh, &[turned]).unwrap()];
    let error = optimize::graph(&g, &decode()).unwrap_err().to_string();
    assert!(
        error.contains("value 1, transpose of [f32[T,4]]"),
        "{error}"
    );
}

#[test]
fn growth_is_as_recorded() {
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path("../../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut growth = String::new();
    for (name, _, better, reports) in &*OPTIMIZED {
        for (graph, r) in reports {
            let kernels = kernels(&better.graphs[graph]);
            growth += &format!(
                "{name} {graph}: {kernels} kernels, {} e-nodes, {} rounds\n",
                r.nodes, r.iterations
            );
            assert!(r.nodes <= 5000, "{name}: {graph} has {} e-nodes", r.nodes);
        }
    }
    settings.bind(|| insta::assert_snapshot!("optimizer@growth", growth));
}

#[test]
fn whatever_is_optimized_is_explained() {
    let names: Vec<String> = rules::all().into_iter().map(|r| r.name).collect();
    for (fixture, built, better, _) in OPTIMIZED.iter() {
        for (name, graph) in &built.graphs {
            let e = optimize::explain(graph, &options(fixture)).unwrap();
            let e = e.unwrap_or_else(|| panic!("{fixture}, {name}: not proved"));
            assert_eq!(e.optimized, better.graphs[name], "{fixture}, {name}");
            let steps = e.recognised.steps.iter().chain(&e.rewritten.steps);
            for step in steps {
                let known = names.contains(&step.rule) || step.rule == egraph::DEFINITION;
                assert!(
                    known && step.left != step.right,
                    "{fixture}, {name}: {step}"
                );
            }
            assert!(!e.rewritten.steps.is_empty(), "{fixture}, {name}");
            let judged: Vec<&str> = e.verdicts.iter().map(|(r, _)| r.name.as_str()).collect();
            assert_eq!(judged, names);
        }
    }
}

#[test]
fn rules_that_did_not_fire_say_why() {
    let verdict = |graph: &str, rule: &str, without: &str| {
        let graph: Graph = graph.parse().unwrap();
        let mut options = decode();
        if !without.is_empty() {
            options.without = without.parse().unwrap();
        }
        let e = optimize::explain(&graph, &options).unwrap().unwrap();
        let found = e.verdicts.into_iter().find(|(r, _)| r.name == rule);
        found.unwrap().1
    };
    let product = "graph(x: f32[4,8], weight w: f32[8,8]) { return matmul(tanh(x), w) }";
    let check = |graph: &str, rule: &str, expected: Verdict| {
        assert_eq!(verdict(graph, rule, ""), expected, "{rule}");
    };
    let silent = |why: &str, n| Verdict::Silent(vec![(why.into(), n)]);
    check(product, "gemm", Verdict::Fired(1));
    check(product, "map-exp", Verdict::NoOp("exp"));
    check(product, "gemm-then-tanh", Verdict::Silent(vec![]));
    check(
        "graph(x: f32[4,8], y: f32[8,8], weight w: f32[8,8]) { return matmul(add(x, x), w), mul(tanh(y), w) }",
        "bias-before-product",
        // In either order.
        silent("not `weight ?b ?w`", 2),
    );
    check(
        "graph(x: f32[4,8], weight w: f32[8,8]) { return matmul(reshape(tanh(x)) {shape=[4,8]}, w) }",
        "reshape-nothing",
        Verdict::Fired(1),
    );
    check(
        "graph(x: f32[4,8]) { return reshape(tanh(x)) {shape=[8,4]} }",
        "reshape-nothing",
        silent("the right side has another type", 1),
    );
    assert_eq!(
        verdict(product, "scale-into-weight", "folding"),
        Verdict::LeftOut
    );
}
