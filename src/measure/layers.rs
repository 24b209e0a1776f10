//! Compares compiled code with the meaning of the program it was compiled from, layer by layer: each layer is also
//! evaluated by the reference interpreter, in f64, on what the compiled layers before it gave. So an error is the
//! error of one layer, and none hides behind another. Knows no files.

use super::{
    Comparison, Error, Reference, Step, Work,
    forward::{kept, traced},
    reference::F32,
};
use ir::{
    Class, DType, Graph, Name, Op, OpKind, Operand, Program, Sym, Tensor, Value, artifact::Layer,
};
use runtime::{Model, Trace};
use std::sync::Arc;

/// Floating-point operations that the interpreter is given: seconds of its time.
const FLOPS: f64 = 4e9;

/// Relative L2 error of a layer whose activations are rounded to 8 bits, of which a last bit of f32 may move one by a step; or, on a
/// GPU, whose attention multiplies what was rounded to bf16, to which probabilities are then rounded, too (0.002 in models of 64
/// columns).
const STEPS: f64 = 5e-3;

/// A layer of compiled code beside the same layer of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerComparison {
    /// Such as `model.layers.3`, or `head`.
    pub name: String,
    /// `norm(found - meant) / norm(meant)` of the result that is furthest off.
    pub relative_l2: f64,
    /// Largest `|found - meant|`.
    pub max_absolute: f64,
    /// Whether it is within [`Layers::tolerance`].
    pub passes: bool,
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers {
    /// The row of the reference's inputs on which layers were compared.
    pub sequence: usize,
    /// Tokens of it that were run, the first ones.
    pub tokens: usize,
    /// Tokens that it has, padding apart.
    pub of: usize,
    /// Largest relative L2 error of a layer that the precision of its arithmetic accounts for.
    pub tolerance: f64,
    /// In execution order.
    pub layers: Vec<LayerComparison>,
}

impl Layers {
    /// The first layer whose compiled code does not do what the program says.
    pub fn first_divergence(&self) -> Option<&LayerComparison> {
        self.layers.iter().find(|l| !l.passes)
    }

    /// The layer that is furthest off, within tolerance or not.
    pub fn largest(&self) -> Option<&LayerComparison> {
        let layers = self.layers.iter();
        layers.max_by(|a, b| a.relative_l2.total_cmp(&b.relative_l2))
    }
}

/// Runs `model` on the row of `reference` where `comparison` first fails, or on the first one, and compares each layer
/// with `program`, which it was compiled from; `weight` finds a tensor of the checkpoint. The row is cut to what the
/// interpreter can do in seconds. `progress` is told `(layers done, of)`.
///
/// # Errors
/// Inputs that the model does not take, or another program than the model was compiled from.
pub fn compare_layers(
    model: &Arc<Model>,
    program: &Program,
    weight: &dyn Fn(&Name) -> Option<Tensor>,
    (reference, comparison): (&Reference, &Comparison),
    threads: Option<usize>,
    progress: &dyn Fn(usize, usize),
) -> Result<Layers, Error> {
    let plan = &model.manifest().plan;
    if plan.layers.len() != program.calls.len() {
        let (has, wanted) = (plan.layers.len(), program.calls.len());
        return Err(Error::Mismatch(format!(
            "the compiled model has {has} layers, its program {wanted}; compile it again"
        )));
    }
    let sequence = comparison.failing_sequence().unwrap_or(0);
    let more = continuation(reference, comparison, sequence);
    let columns = kept(reference, sequence, reference.length);
    let of = columns.len() + more.len();
    let tokens = affordable(program, of, plan);
    // Up to and with the last column that is run; one at least, so that a row of padding is refused as such.
    let width = columns.get(tokens - 1).map_or(reference.length, |c| c + 1);
    let more = &more[..tokens.saturating_sub(columns.len())];
    let traces = traced(model, reference, (sequence, width), more, threads)?;
    let mut layers = Layers {
        sequence,
        tokens,
        of,
        tolerance: if rounds_activations(program, model.target().is_gpu()) {
            STEPS
        } else {
            F32
        },
        layers: vec![],
    };
    // All of it is one run: so much was chosen.
    for trace in traces.iter().take(1) {
        layers.layers = compare(program, weight, (&plan.layers, trace), progress)?;
    }
    for layer in &mut layers.layers {
        layer.passes = layer.relative_l2 <= layers.tolerance;
    }
    Ok(layers)
}

/// Whether values of a step, whose sizes are symbols, are rounded to few bits; or, on a GPU, to bf16 before they meet a weight, or
/// all that attention multiplies.
fn rounds_activations(program: &Program, gpu: bool) -> bool {
    let rounds = |graph: &Graph, v: Value| match graph.op(v) {
        Some(Op::FakeQuantize(_)) => of_step(graph, v),
        Some(Op::Cast(c)) if gpu => c.to == DType::BF16 && of_step(graph, v),
        Some(Op::Attention(_)) if gpu => graph.args(v)[..3].iter().all(|x| holds_bf16(graph, *x)),
        _ => false,
    };
    let mut graphs = program.graphs.values();
    graphs.any(|g| g.values().any(|v| rounds(g, v)))
}

/// Whether a value's size is a step's.
fn of_step(graph: &Graph, v: Value) -> bool {
    graph.ty(v).shape.iter().any(|d| d.size().is_none())
}

/// Whether each number of a value is one of bf16: it is of that type, or was, before it was widened or seen otherwise.
fn holds_bf16(graph: &Graph, v: Value) -> bool {
    let widened = |op: &Op| op.kind().class() == Class::View || op.kind() == OpKind::Cast;
    match (graph.op(v), graph.args(v)) {
        _ if graph.ty(v).dtype == DType::BF16 => true,
        (Some(op), [inner]) => widened(op) && holds_bf16(graph, *inner),
        _ => false,
    }
}

/// The tokens that follow a row up to the first that differs, where nothing else of the row does.
fn continuation(reference: &Reference, comparison: &Comparison, sequence: usize) -> Vec<u32> {
    let outputs = comparison
        .outputs
        .iter()
        .filter_map(|o| o.divergence.as_ref());
    let mut elsewhere = outputs.filter(|d| d.sequence == sequence);
    match (comparison.greedy, &reference.greedy) {
        (Some(Err((row, token))), Some(greedy))
            if row == sequence && elsewhere.next().is_none() =>
        {
            greedy[row][..token].to_vec()
        }
        _ => vec![],
    }
}

/// How many of so many tokens the interpreter can run in seconds, and the plan at once; one at least.
fn affordable(program: &Program, tokens: usize, plan: &ir::artifact::Plan) -> usize {
    let one = Work::of(
        program,
        Step {
            tokens: 1,
            selected: 1,
            sequences: 1,
            keys: tokens as f64,
        },
    );
    let limit = |name: &str| plan.symbols.iter().find(|s| *s.name == *name);
    let limit = limit(ir::feed::T).map_or(usize::MAX, |s| s.max as usize);
    ((FLOPS / one.flops.max(1.0)) as usize)
        .min(tokens)
        .min(limit)
        .max(1)
}

fn compare(
    program: &Program,
    weight: &dyn Fn(&Name) -> Option<Tensor>,
    (layers, trace): (&[Layer], &Trace),
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<LayerComparison>, Error> {
    let at = |symbol: &Sym| trace.at(symbol);
    let mut results: Vec<Vec<Tensor>> = vec![];
    let mut compared = vec![];
    for (i, (layer, found)) in layers.iter().zip(&trace.layers).enumerate() {
        progress(i, layers.len());
        let given = |operand: &Operand| match operand {
            Operand::Input(name) => {
                let fed = trace.inputs.iter().find(|(n, _)| n == name);
                fed.map(|(_, tensor)| tensor.clone())
            }
            Operand::Weight(name) => weight(name),
            // The step is a session's first.
            Operand::State(name) => {
                let shape = program.states.get(name)?.at(&at);
                Some(Tensor::from_fn(&shape, |_| 0.0))
            }
            Operand::Result { call, output } => results.get(*call)?.get(*output).cloned(),
            Operand::Constant(_) => None,
        };
        let failed = |source| Error::Program {
            layer: layer.name.to_string(),
            source,
        };
        let mut meant = program.eval_call(i, &given, &at).map_err(failed)?;
        let mut comparison = LayerComparison {
            name: layer.name.to_string(),
            relative_l2: 0.0,
            max_absolute: 0.0,
            passes: false,
        };
        for (result, found) in layer.results.iter().zip(found) {
            let Some(meant) = meant.get_mut(result.output as usize) else {
                continue;
            };
            let (relative, absolute) = error(found, meant);
            comparison.relative_l2 = comparison.relative_l2.max(relative);
            comparison.max_absolute = comparison.max_absolute.max(absolute);
            *meant = found.clone();
        }
        compared.push(comparison);
        results.push(meant);
    }
    progress(layers.len(), layers.len());
    Ok(compared)
}

/// Relative L2 error and largest error; what is not a number is infinitely wrong.
fn error(found: &Tensor, meant: &Tensor) -> (f64, f64) {
    let difference = |(found, meant): (&f64, &f64)| match (found - meant).abs() {
        error if error.is_nan() => f64::INFINITY,
        error => error,
    };
    let differences = || found.data.iter().zip(&meant.data).map(difference);
    let largest = match found.shape == meant.shape {
        true => differences().fold(0.0, f64::max),
        false => f64::INFINITY,
    };
    let norm: f64 = meant.data.iter().map(|x| x * x).sum();
    let error: f64 = differences().map(|d| d * d).sum();
    match (largest, norm) {
        (0.0, _) => (0.0, 0.0),
        (f64::INFINITY, _) | (_, 0.0) => (f64::INFINITY, largest),
        _ => ((error / norm).sqrt(), largest),
    }
}
