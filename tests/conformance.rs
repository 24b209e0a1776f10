//! One suite for every backend: programs compiled and run on the device must give what the reference interpreter
//! gives, for the example graphs, for hand-picked shapes, and for random graphs. A backend brings a target.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::{Compilation, CompileError, Options, fold::Array, optimize, schedule::Packing};
use ir::{
    Call, Description, Graph, Name, Op, Operand, Positions, Program, Role, Target, Task, Tensor,
    Value, random,
};
use runtime::{Model, devices};
use std::{io::Cursor, path::Path};

/// A program that calls the graph once: data in, everything but state updates out.
fn program(graph: &Graph) -> Program {
    let mut p = Program::default();
    let mut call = Call {
        graph: "g".into(),
        args: vec![],
        updates: vec![],
    };
    for v in graph.inputs() {
        let (name, role) = graph.as_input(*v).expect("an input");
        let (name, ty) = (name.clone(), graph.ty(*v).clone());
        call.args.push(match role {
            Role::Data => Operand::Input(name.clone()),
            Role::Weight => Operand::Weight(name.clone()),
            Role::State => Operand::State(name.clone()),
        });
        match role {
            Role::Data => p.inputs.insert(name, ty),
            Role::Weight => p.weights.insert(name, ty),
            Role::State => p.states.insert(name, ty),
        };
    }
    for (i, v) in graph.outputs.iter().enumerate() {
        match updated_state(graph, *v) {
            Some(state) => call.updates.push((i, state)),
            None => {
                p.outputs.insert(
                    format!("out.{i}").into(),
                    Operand::Result { call: 0, output: i },
                );
            }
        }
    }
    p.graph("g", graph.clone());
    p.calls.push(call);
    p
}

/// The state that an output replaces, if it does.
fn updated_state(graph: &Graph, v: Value) -> Option<Name> {
    let Some(Op::Scatter(_)) = graph.op(v) else {
        return None;
    };
    match graph.as_input(graph.args(v)[0])? {
        (name, Role::State) => Some(name.clone()),
        _ => None,
    }
}

fn description() -> Description {
    Description {
        architecture: "Test".into(),
        task: Task::MaskedLm,
        vocabulary: 1,
        token_types: 0,
        context: 64,
        layers: 1,
        hidden: 1,
        parameters: 0,
        positions: Positions::Index,
        eos: vec![],
        source: [0; 32],
    }
}

/// Compiles and runs a graph, and compares with the interpreter. `Err` where the compiler refuses it.
fn check(
    what: &str,
    graph: &Graph,
    seed: u64,
    sizes: &[(&str, u32)],
    target: &Target,
) -> Result<(), CompileError> {
    let at = |s: &ir::Sym| {
        let known = sizes.iter().find(|(n, _)| **n == *s.name);
        known.map_or(3, |(_, x)| i64::from(*x))
    };
    let tensors = random::tensors(graph, seed, &at);
    let wanted = graph
        .eval(&tensors, &at)
        .unwrap_or_else(|e| panic!("{what}: interpreter: {e}"));

    let built = program(graph);
    let options = optimize::Options::at(sizes.iter().copied());
    let compilation = Compilation::of(built.clone(), description(), &options, &|_, _, _| {})?;
    let tensor_of = |name: &str| {
        let position = graph
            .inputs()
            .iter()
            .position(|v| graph.as_input(*v).is_some_and(|(n, _)| **n == *name));
        &tensors[position.expect("every weight is an input")]
    };
    let weight = |name: &Name| {
        let t = tensor_of(name);
        let bytes: Vec<u8> = t
            .data
            .iter()
            .flat_map(|x| (*x as f32).to_le_bytes())
            .collect();
        let wide = Array::new(ir::DType::F32, &t.shape, bytes);
        let dtype = built.weights[name].dtype;
        Ok(Array::new(dtype, &t.shape, wide.pack(dtype, Packing::Rows)))
    };
    let options = Options {
        target: target.clone(),
        weights: Default::default(),
    };
    let artifact = compilation.write(&options, &weight, b"", Cursor::new(vec![]), &|_, _, _| {})?;
    let model = Model::from_bytes(artifact.into_inner()).unwrap_or_else(|e| panic!("{what}: {e}"));

    let plan = &model.manifest().plan;
    let dims: Vec<i64> = plan.symbols.iter().map(&at).collect();
    let of = |names: Vec<&Name>| {
        names
            .into_iter()
            .map(|n| tensor_of(n).clone())
            .collect::<Vec<Tensor>>()
    };
    let inputs = of(built.inputs.keys().collect());
    let states = of(built.states.keys().collect());
    for threads in [1, 2] {
        let (outputs, after) =
            devices::evaluate::evaluate(&model, threads, &dims, &inputs, &states)
                .unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut outputs = outputs.into_iter();
        for (want, v) in wanted.iter().zip(&graph.outputs) {
            let got = match updated_state(graph, *v) {
                Some(s) => after[built.states.get_index_of(&s).expect("declared")].clone(),
                None => outputs.next().expect("one for each output"),
            };
            assert_eq!(got.shape, want.shape, "{what}: {v:?}");
            for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
                let allowed = 1e-4 * w.abs().max(1.0);
                assert!(
                    (g - w).abs() <= allowed,
                    "{what} ({threads} threads): {v:?}[{i}] is {g}, should be {w}\n{graph}"
                );
            }
        }
    }
    Ok(())
}

/// Every target whose code this machine can run.
fn targets() -> Vec<Target> {
    let host = devices::cpu::host();
    Target::names()
        .filter_map(|n| n.parse().ok())
        .filter(|t: &Target| t.missing_on(&host).is_empty())
        .collect()
}

#[test]
fn example_graphs_run_as_interpreted() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ir");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let graph: Graph = text
            .parse()
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        for target in targets() {
            for rows in [1, 2, 7, 33] {
                let what = format!("{} at {rows} rows for {target}", file.display());
                check(
                    &what,
                    &graph,
                    7,
                    &[("T", rows), ("R", rows), ("L", 1), ("B", 1)],
                    &target,
                )
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            }
        }
    }
}

#[test]
fn random_graphs_run_as_interpreted() {
    let mut refused = 0;
    let seeds = std::env::var("SATURA_SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(60);
    let target = targets().pop().expect("this machine runs some target");
    for seed in 0..seeds {
        let graph = random::graph(seed, 3 + (seed % 9) as usize);
        let rows = [1, 2, 3, 5, 17][(seed % 5) as usize];
        let what = format!("seed {seed} at {rows} rows");
        if let Err(e) = check(
            &what,
            &graph,
            seed,
            &[("T", rows), ("R", rows + 3), ("L", 2)],
            &target,
        ) {
            println!("{what}: {e}");
            refused += 1;
        }
    }
    // What no kernel covers is refused with a reason; most graphs must run for the test to mean anything.
    assert!(
        refused * 3 < seeds,
        "{refused} of {seeds} graphs were refused"
    );
}
