//! A program: a few graphs and a list of calls. A 32-layer Llama is three graphs and 34 calls, so the optimizer sees
//! each unique block once.

use crate::{DType, Float, Graph, Name, Role, Type};
use indexmap::IndexMap;

/// Names of the per-step inputs that a session knows how to feed. A step runs `T` tokens of any number of sequences,
/// packed one after another without padding; an encoder gets whole sequences, a decoder any number of new tokens of
/// each.
pub mod feed {
    /// `i32[T]`: token ids.
    pub const TOKENS: &str = "tokens";
    /// `i32[T]`: position of each token in its sequence, as the model counts it.
    pub const POSITIONS: &str = "positions";
    /// `i32[T]`: how many tokens the sequence of each token has once all that it is given at once have run.
    pub const LENGTHS: &str = "lengths";
    /// `i32[T]`: segment (token type) of each token.
    pub const TOKEN_TYPES: &str = "token_types";
    /// `i32[T]`: first key row each token attends to: of its sequence in the cache, or in this step for an encoder.
    pub const LO: &str = "lo";
    /// `i32[T]`: one past the last key row each token attends to.
    pub const HI: &str = "hi";
    /// `i32[T]`: the cache row that each token's key and value go to.
    pub const ROWS: &str = "rows";
    /// `f32[T, n]`: pixels of each token's patch of an image, colour after colour, row after row; zeros where it has none.
    pub const PATCHES: &str = "patches";
    /// `i32[L]`: the tokens whose outputs are wanted.
    pub const SELECT: &str = "select";
    /// `i32[B]`: first token of each sequence.
    pub const STARTS: &str = "starts";
    /// `i32[B]`: one past the last token of each sequence.
    pub const ENDS: &str = "ends";

    /// Symbol: tokens in a step.
    pub const T: &str = "T";
    /// Symbol: selected tokens.
    pub const L: &str = "L";
    /// Symbol: sequences in a step.
    pub const B: &str = "B";
    /// Symbol: rows of a key/value cache, fixed when a session is made.
    pub const R: &str = "R";
}

/// Where a call's argument, or a program's output, comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operand {
    /// A per-step input, see [`feed`].
    Input(Name),
    /// A checkpoint tensor.
    Weight(Name),
    /// A vector that the model's builder computed.
    Constant(Name),
    /// A state as it is when the call runs.
    State(Name),
    /// An output of an earlier call.
    Result {
        /// Index into [`Program::calls`].
        call: usize,
        /// Index into the graph's outputs.
        output: usize,
    },
}

/// One use of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which graph.
    pub graph: Name,
    /// One for each of the graph's inputs, in order.
    pub args: Vec<Operand>,
    /// `(output, state)`: outputs of the graph that replace a state. The graph takes that state as an argument, and
    /// the output may be computed in its memory.
    pub updates: Vec<(usize, Name)>,
}

impl Call {
    /// The layer it is: what the names of its weights have in common, up to the last number in them, e.g.
    /// `model.layers.3`. `None` where they have no number in common.
    pub fn layer(&self) -> Option<String> {
        let parts = |name: &Name| name.split('.').map(String::from).collect::<Vec<_>>();
        let mut names = self.args.iter().filter_map(|arg| match arg {
            Operand::Weight(name) => Some(parts(name)),
            _ => None,
        });
        let mut common = names.next()?;
        for name in names {
            let same = common.iter().zip(&name).take_while(|(a, b)| a == b).count();
            common.truncate(same);
        }
        let number = |part: &String| part.parse::<u32>().is_ok();
        let last = common.iter().rposition(number)?;
        Some(common[..=last].join("."))
    }
}

/// Numbers that are part of the program rather than of the checkpoint, such as rotary frequencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constant {
    /// f32, of known shape.
    pub ty: Type,
    /// Row-major.
    pub data: Vec<Float>,
}

/// See the module's text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// Given at each step.
    pub inputs: IndexMap<Name, Type>,
    /// Checkpoint tensors, as stored there.
    pub weights: IndexMap<Name, Type>,
    /// Known vectors; a graph takes them as weights.
    pub constants: IndexMap<Name, Constant>,
    /// Kept between steps; zero at first.
    pub states: IndexMap<Name, Type>,
    /// The unique blocks.
    pub graphs: IndexMap<Name, Graph>,
    /// In execution order.
    pub calls: Vec<Call>,
    /// What a step gives.
    pub outputs: IndexMap<Name, Operand>,
}

/// A rule of well-formed programs that one breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct Violation {
    /// The call, graph or output.
    pub place: String,
    /// What is wrong there.
    pub why: String,
}

impl Program {
    /// Type of an operand, if it exists.
    pub fn ty(&self, operand: &Operand) -> Option<&Type> {
        match operand {
            Operand::Input(n) => self.inputs.get(n),
            Operand::Weight(n) => self.weights.get(n),
            Operand::Constant(n) => self.constants.get(n).map(|c| &c.ty),
            Operand::State(n) => self.states.get(n),
            Operand::Result { call, output } => {
                let graph = self.graphs.get(&self.calls.get(*call)?.graph)?;
                graph.outputs.get(*output).map(|v| graph.ty(*v))
            }
        }
    }

    /// Adds a graph under `name`, or finds an equal one under another name, and returns the name it has.
    pub fn graph(&mut self, name: impl Into<Name>, graph: Graph) -> Name {
        if let Some((same, _)) = self.graphs.iter().find(|(_, g)| **g == graph) {
            return same.clone();
        }
        let base = name.into();
        let mut unique = base.clone();
        for i in 1.. {
            if !self.graphs.contains_key(&unique) {
                break;
            }
            unique = format!("{base}.{i}").into();
        }
        self.graphs.insert(unique.clone(), graph);
        unique
    }

    /// Every rule of well-formed programs that this one breaks; none for a good one.
    pub fn verify(&self) -> Vec<Violation> {
        let mut found = vec![];
        for (name, graph) in &self.graphs {
            found.extend(graph.verify().into_iter().map(|v| Violation {
                place: format!("graph {name}, {}", v.place),
                why: v.why,
            }));
        }
        for (name, constant) in &self.constants {
            let size = constant.ty.numel().size();
            if size != Some(constant.data.len()) || constant.ty.dtype != DType::F32 {
                let (has, ty) = (constant.data.len(), &constant.ty);
                found.push(Violation {
                    place: format!("constant {name}"),
                    why: format!("has {has} f32 numbers for {ty}"),
                });
            }
        }
        for (i, call) in self.calls.iter().enumerate() {
            let place = format!("call {i} of {}", call.graph);
            let mut report = |why: String| {
                let place = place.clone();
                found.push(Violation { place, why });
            };
            let Some(graph) = self.graphs.get(&call.graph) else {
                report("no such graph".into());
                continue;
            };
            if call.args.len() != graph.inputs().len() {
                let (has, wants) = (call.args.len(), graph.inputs().len());
                report(format!("has {has} arguments, the graph wants {wants}"));
            }
            for (arg, input) in call.args.iter().zip(graph.inputs()) {
                let Some((name, role)) = graph.as_input(*input) else {
                    continue;
                };
                if matches!(arg, Operand::Result { call, .. } if *call >= i) {
                    report(format!(
                        "argument {name} is {arg}, which is not computed yet"
                    ));
                }
                match self.ty(arg) {
                    None => report(format!("argument {name} is {arg}, which does not exist")),
                    Some(ty) if ty != graph.ty(*input) => {
                        report(format!(
                            "argument {name} is {arg}: {ty}, the graph wants {}",
                            graph.ty(*input)
                        ));
                    }
                    Some(_) => {}
                }
                let wanted = match arg {
                    Operand::Weight(_) | Operand::Constant(_) => Role::Weight,
                    Operand::State(_) => Role::State,
                    Operand::Input(_) | Operand::Result { .. } => Role::Data,
                };
                if role != wanted {
                    report(format!(
                        "argument {name} has role {role:?}, {arg} has {wanted:?}"
                    ));
                }
            }
            for (output, state) in &call.updates {
                let new = graph.outputs.get(*output).map(|v| graph.ty(*v));
                if new.is_none() || new != self.states.get(state) {
                    report(format!("output {output} cannot replace state {state}"));
                }
                if !call.args.contains(&Operand::State(state.clone())) {
                    report(format!("replaces state {state} without taking it"));
                }
            }
        }
        for (name, operand) in &self.outputs {
            if self.ty(operand).is_none() {
                found.push(Violation {
                    place: format!("output {name}"),
                    why: format!("{operand} does not exist"),
                });
            }
        }
        found
    }
}
