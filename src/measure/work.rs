//! The work a model's program asks for in a step: bytes that have to be read, and products that have to be computed.
//! Counts what the model says, not what a compiler made of it, so that a better plan shows as a better fraction.

use ir::{Graph, OpKind, Operand, Program, Sym, Type, Value, feed, ops::Scatter};
use std::collections::HashSet;

/// See the module's text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Weights as the checkpoint stores them, each once (of tables of rows, such as embeddings, only the rows looked
    /// up), and the key/value cache.
    pub bytes: f64,
    /// Operations of projections and attention, a multiply-add counting two.
    pub flops: f64,
}

/// How large a step is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// New tokens of all sequences together.
    pub tokens: usize,
    /// Tokens whose logits are wanted.
    pub selected: usize,
    /// Sequences.
    pub sequences: usize,
    /// Keys that a token attends to, on average.
    pub keys: f64,
}

impl Step {
    /// The value of a symbol of the program. A cache counts as long as what is read of it.
    fn value(&self, symbol: &Sym) -> i64 {
        match &*symbol.name {
            feed::T => self.tokens as i64,
            feed::L => self.selected as i64,
            feed::B => self.sequences as i64,
            feed::R => (self.keys * self.sequences as f64).round() as i64,
            _ => 1,
        }
    }
}

impl Work {
    /// What `program` asks for in a step.
    pub fn of(program: &Program, step: Step) -> Work {
        let at = |symbol: &Sym| step.value(symbol);
        let bytes = |ty: &Type| ty.numel().eval(&at) as f64 * ty.dtype.bytes() as f64;
        let mut work = Work::default();
        let mut read = HashSet::new();
        for call in &program.calls {
            let Some(graph) = program.graphs.get(&call.graph) else {
                continue;
            };
            for value in graph.values() {
                let Some(op) = graph.op(value) else { continue };
                let out = graph.ty(value);
                match op.kind() {
                    OpKind::Attention => {
                        work.flops += 4.0 * out.numel().eval(&at) as f64 * step.keys;
                    }
                    OpKind::Linear | OpKind::MatMul | OpKind::Gemm => {
                        let args: Vec<Type> = graph
                            .args(value)
                            .iter()
                            .map(|a| graph.ty(*a).clone())
                            .collect();
                        work.flops += op.flops(&args, out).eval(&at) as f64;
                    }
                    OpKind::Gather => work.bytes += bytes(out),
                    _ => {}
                }
            }
            for (input, operand) in graph.inputs().iter().zip(&call.args) {
                if let Operand::State(_) = operand {
                    let ty = graph.ty(*input);
                    let (elements, rows) = (ty.numel().eval(&at), ty.rows().eval(&at));
                    work.bytes += match Scatter::rounding(graph, *input) {
                        Some(rounding) => {
                            elements as f64 * rounding.element.bits() as f64 / 8.0
                                + (rows * rounding.scale.bytes() as i64) as f64
                        }
                        None => bytes(ty),
                    };
                }
                if let Operand::Weight(name) = operand
                    && !only_looked_up(graph, *input)
                    && read.insert(name)
                {
                    work.bytes += bytes(graph.ty(*input));
                }
            }
        }
        work
    }
}

/// Whether nothing but rows of `value` is used.
fn only_looked_up(graph: &Graph, value: Value) -> bool {
    graph
        .users(value)
        .into_iter()
        .all(|user| match graph.op(user).map(|op| op.kind()) {
            Some(OpKind::Gather) => graph.args(user)[0] == value,
            Some(OpKind::Cast) => only_looked_up(graph, user),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use compiler::{checkpoint::Checkpoint, models};
    use std::path::Path;

    #[test]
    fn work_of_small_models_by_hand() {
        let check = |case: &str, step: Step, flops: f64, bytes: f64| {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/fixtures")
                .join(case);
            let checkpoint = Checkpoint::open(&dir).unwrap();
            let (program, _) = models::build(checkpoint.config(), &checkpoint).unwrap();
            let found = Work::of(&program, step);
            let near = |a: f64, b: f64| (a - b).abs() <= 0.02 * b;
            assert!(
                near(found.flops, flops),
                "{case}: {found:?}, {flops} operations expected"
            );
            assert!(
                near(found.bytes, bytes),
                "{case}: {found:?}, {bytes} bytes expected"
            );
        };
        // Three layers of 46080 weights and a head of 19648, bf16; 10 cached keys and values of 32 in each layer, f32.
        let decode = Step {
            tokens: 1,
            selected: 1,
            sequences: 1,
            keys: 10.0,
        };
        check(
            "llama_gqa",
            decode,
            2.0 * 157_888.0 + 7680.0,
            2.0 * 158_400.0 + 7680.0,
        );
        // Two layers of 32768 weights, and a pooler of 4096 on two rows, f32, with 1600 gains and biases.
        let encode = Step {
            tokens: 6,
            selected: 6,
            sequences: 2,
            keys: 3.0,
        };
        let embeddings = 3.0 * 6.0 * 64.0 * 4.0;
        check("bert_model", encode, 812_032.0, 4.0 * 71_232.0 + embeddings);
    }
}
