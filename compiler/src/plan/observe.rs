//! A program to be watched: what each weight multiplies becomes a result of its call, and beside each call stand copies
//! of it in which one weight is rounded, whose effect can be measured. Runs nothing.

use crate::compress::Site;
use ir::{Call, DType, Element, Graph, Name, Op, Operand, Program, TypeError, ops::FakeQuantize};

/// Element and group of the rounding whose effect tells how much a weight's errors matter: coarse enough to be seen in few
/// tokens, fine enough that effects still add up.
pub const PROBE: (Element, u32) = (Element::Q4, 32);

/// See the module's text.
#[derive(Clone)]
pub struct Observed {
    /// The calls of the program, each followed by its copies.
    pub program: Program,
    /// Where each of the program's calls is now.
    pub calls: Vec<usize>,
    /// For each site, in order, what it multiplies.
    pub inputs: Vec<Operand>,
    /// For each site the copy of its call in which it is rounded; `None` where no group of 32 divides its inputs.
    pub probes: Vec<Option<usize>>,
}

impl Observed {
    /// Of `program` with its sites, in order of calls.
    ///
    /// # Errors
    /// An op that does not type-check.
    pub fn new(program: &Program, sites: &[Site]) -> Result<Observed, TypeError> {
        let mut out = Observed {
            program: Program {
                graphs: Default::default(),
                calls: vec![],
                ..program.clone()
            },
            calls: vec![],
            inputs: vec![],
            probes: vec![],
        };
        for (c, call) in program.calls.iter().enumerate() {
            let graph = &program.graphs[&call.graph];
            let own: Vec<&Site> = sites.iter().filter(|s| s.call == c).collect();
            let mut watched = graph.clone();
            for input in own.iter().map(|s| s.inputs[0]) {
                if graph.as_input(input).is_none() && !watched.outputs.contains(&input) {
                    watched.outputs.push(input);
                }
            }
            let args: Vec<Operand> = call.args.iter().map(|a| out.moved(a)).collect();
            let at = out.program.calls.len();
            for site in &own {
                let input = site.inputs[0];
                let given = graph.inputs().iter().position(|i| *i == input);
                let output = watched.outputs.iter().position(|o| *o == input);
                out.inputs.push(match (given, output) {
                    (Some(argument), _) => args[argument].clone(),
                    (None, output) => Operand::Result {
                        call: at,
                        output: output.unwrap_or_default(),
                    },
                });
            }
            out.calls.push(at);
            out.call(call, &args, watched);
            for site in &own {
                let probe = out.program.calls.len();
                match rounded(graph, site)? {
                    Some(graph) => {
                        out.call(call, &args, graph);
                        out.probes.push(Some(probe));
                    }
                    None => out.probes.push(None),
                }
            }
        }
        let outputs = program.outputs.iter();
        let outputs = outputs.map(|(name, operand)| (name.clone(), out.moved(operand)));
        out.program.outputs = outputs.collect();
        Ok(out)
    }

    /// Calls that read results of others, and which results: `(output, reader)` for each of the results of `call`.
    pub fn readers(&self, call: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let calls = self.program.calls.iter().enumerate();
        calls.flat_map(move |(reader, c)| {
            let reads = c.args.iter().filter_map(move |arg| match arg {
                Operand::Result { call: of, output } if *of == call => Some(*output),
                _ => None,
            });
            reads.map(move |output| (output, reader))
        })
    }

    fn moved(&self, operand: &Operand) -> Operand {
        match operand {
            Operand::Result { call, output } => Operand::Result {
                call: self.calls[*call],
                output: *output,
            },
            other => other.clone(),
        }
    }

    fn call(&mut self, like: &Call, args: &[Operand], graph: Graph) {
        let name: Name = like.graph.clone();
        let graph = self.program.graph(name, graph);
        self.program.calls.push(Call {
            graph,
            args: args.to_vec(),
            updates: like.updates.clone(),
        });
    }
}

/// The graph with one weight rounded.
fn rounded(graph: &Graph, site: &Site) -> Result<Option<Graph>, TypeError> {
    let (element, group) = PROBE;
    if !site.shape[1].is_multiple_of(group as usize) {
        return Ok(None);
    }
    let round = FakeQuantize {
        element,
        group: group.into(),
        scale: DType::F16,
    };
    let copy = graph.rebuild(|g, v, op, args| {
        let mut args = args.to_vec();
        if matches!(op, Op::Linear(_)) && graph.args(v)[1] == site.weight {
            args[1] = g.add(round.clone(), &[args[1]])?;
        }
        g.add(op.clone(), &args)
    })?;
    Ok(Some(copy))
}
