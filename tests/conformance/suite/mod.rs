//! One suite for every backend: programs compiled and run on the device must give what the reference interpreter
//! gives, for the example graphs, for hand-picked shapes, and for random graphs. Whoever takes it in brings `targets`,
//! `stored` and what is true of the device.

mod functions;
mod ops;
pub mod shapes;

use crate::{stored, targets};
use compiler::{Compilation, CompileError, Options, fold::Array, optimize, schedule::Packing};
use ir::{
    Call, Description, Graph, Name, Op, Operand, Positions, Program, Role, Target, Task, Tensor,
    Value, random,
};
use runtime::{Model, devices};
use std::{io::Cursor, path::Path, sync::Arc};

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
        generation: ir::Generation::default(),
        chat: None,
        image: None,
        source: [0; 32],
    }
}

/// Sizes of symbols; 3 for others.
type Sizes<'a> = &'a [(&'a str, u32)];

fn at(sizes: Sizes<'_>) -> impl Fn(&ir::Sym) -> i64 {
    move |s| {
        let known = sizes.iter().find(|(n, _)| **n == *s.name);
        known.map_or(3, |(_, x)| i64::from(*x))
    }
}

/// A graph as code.
struct Compiled<'a> {
    what: &'a str,
    graph: &'a Graph,
    program: Program,
    model: Arc<Model>,
}

impl<'a> Compiled<'a> {
    /// The graph with the weights among `tensors`, which are all its inputs.
    fn new(
        what: &'a str,
        graph: &'a Graph,
        tensors: &[Tensor],
        sizes: Sizes<'_>,
        options: &Options,
    ) -> Result<Compiled<'a>, CompileError> {
        // Shown when the test fails; all that is known when generated code brings it down.
        println!("{what}");
        let program = program(graph);
        let costs = optimize::Options::at(sizes.iter().copied());
        let compilation = Compilation::of(
            program.clone(),
            description(),
            &costs,
            options,
            &|_, _, _| {},
        )?;
        let weight = |name: &Name| {
            let t = tensor_of(graph, tensors, name);
            let bytes: Vec<u8> = t
                .data
                .iter()
                .flat_map(|x| (*x as f32).to_le_bytes())
                .collect();
            let wide = Array::new(ir::DType::F32, &t.shape, bytes);
            let dtype = program.weights[name].dtype;
            Ok(Array::new(dtype, &t.shape, wide.pack(dtype, Packing::Rows)))
        };
        let file = Cursor::new(vec![]);
        let artifact = compilation.write(&weight, b"", file, &|_, _, _| {})?;
        let model = Model::from_bytes(artifact.into_inner());
        Ok(Compiled {
            what,
            graph,
            model: model.unwrap_or_else(|e| panic!("{what}: {e}")),
            program,
        })
    }

    /// The graph's outputs, updated states among them.
    fn run(&self, tensors: &[Tensor], sizes: Sizes<'_>, threads: usize) -> Vec<Tensor> {
        let plan = &self.model.manifest().plan;
        let dims: Vec<i64> = plan.symbols.iter().map(at(sizes)).collect();
        let of = |names: Vec<&Name>| -> Vec<Tensor> {
            let one = |n: &Name| tensor_of(self.graph, tensors, n).clone();
            names.into_iter().map(one).collect()
        };
        let inputs = of(self.program.inputs.keys().collect());
        let states = of(self.program.states.keys().collect());
        let step = devices::evaluate::evaluate(&self.model, threads, &dims, &inputs, &states);
        let (outputs, after) = step.unwrap_or_else(|e| panic!("{}: {e}", self.what));
        let mut outputs = outputs.into_iter();
        let place = |s: &Name| self.program.states.get_index_of(s).expect("declared");
        let of = |v: &Value| match updated_state(self.graph, *v) {
            Some(s) => after[place(&s)].clone(),
            None => outputs.next().expect("one for each output"),
        };
        self.graph.outputs.iter().map(of).collect()
    }

    /// Compares with the interpreter, for any number of threads.
    fn compare(&self, tensors: &[Tensor], sizes: Sizes<'_>) {
        self.compare_within(tensors, sizes, 1e-4);
    }

    /// As [`Compiled::compare`], where elements may differ by so much of the larger of them and 1.
    fn compare_within(&self, tensors: &[Tensor], sizes: Sizes<'_>, most: f64) {
        let (what, graph) = (self.what, self.graph);
        let wanted = graph
            .eval(tensors, &at(sizes))
            .unwrap_or_else(|e| panic!("{what}: interpreter: {e}"));
        for threads in [1, 2] {
            let got = self.run(tensors, sizes, threads);
            for (o, (got, want)) in got.iter().zip(&wanted).enumerate() {
                assert_eq!(got.shape, want.shape, "{what}: output {o}");
                for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
                    let allowed = most * w.abs().max(1.0);
                    let undefined = w.is_nan() && g.is_nan();
                    assert!(
                        undefined || (g - w).abs() <= allowed,
                        "{what} ({threads} threads): output {o}[{i}] is {g}, should be {w}\n{graph}"
                    );
                }
            }
        }
    }
}

fn tensor_of<'t>(graph: &Graph, tensors: &'t [Tensor], name: &str) -> &'t Tensor {
    let named = |v: &Value| graph.as_input(*v).is_some_and(|(n, _)| **n == *name);
    let position = graph.inputs().iter().position(named);
    &tensors[position.expect("every name is an input's")]
}

/// Compiles and runs a graph, and compares with the interpreter. `Err` where the compiler refuses it.
fn check(
    what: &str,
    graph: &Graph,
    seed: u64,
    sizes: Sizes<'_>,
    target: &Target,
) -> Result<(), CompileError> {
    let tensors = random::tensors(graph, seed, &at(sizes));
    Compiled::new(what, graph, &tensors, sizes, &stored(target))?.compare(&tensors, sizes);
    Ok(())
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

/// The first 300 seeds, or those that `SATURA_SEEDS` says: `5000`, or `300..5000`. See `fuzz/differential`.
fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SATURA_SEEDS") else {
        return 0..300;
    };
    let (from, to) = text.split_once("..").unwrap_or(("0", &text));
    let number = |text: &str| {
        let n = text.trim().parse();
        n.unwrap_or_else(|e| panic!("SATURA_SEEDS={text}: {e}; give a number, or two: 300..5000"))
    };
    number(from)..number(to)
}

#[test]
fn random_graphs_run_as_interpreted() {
    let (mut refused, targets) = (0, targets());
    for seed in seeds() {
        let graph = random::graph(seed, 3 + (seed % 9) as usize);
        let cone = graph.cone(&graph.outputs);
        let there = |v: &Value| match graph.op(*v) {
            Some(Op::FakeQuantize(q)) => crate::ELEMENTS.contains(&q.element),
            _ => true,
        };
        if !cone.iter().all(there) {
            continue;
        }
        // Every number of rows up to a tile's and beyond, with every target in turn.
        let rows = 1 + (seed % 17) as u32;
        let target = &targets[seed as usize % targets.len()];
        let what = format!("seed {seed} at {rows} rows for {target}");
        if let Err(e) = check(
            &what,
            &graph,
            seed,
            &[("T", rows), ("R", rows + 3), ("L", 2)],
            target,
        ) {
            println!("{what}: {e}");
            refused += 1;
        }
    }
    assert_eq!(refused, 0, "of {} graphs", seeds().end - seeds().start);
}
