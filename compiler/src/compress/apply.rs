//! A program with other weights: each chosen site's product is said anew, with numbers that lie beside the checkpoint.
//! Calls of a block that is shared get variants of it where they chose differently. Chooses nothing.

use super::{Encoded, Grouped, Site};
use crate::fold::{Array, stored};
use indexmap::IndexMap;
use ir::{
    DType, Element, Graph, Name, Node, Op, Operand, Program, Role, Type, TypeError, Value,
    ops::{Add, Cast, Dequantize, FakeQuantize, Hadamard, Linear, Mul},
};
use std::collections::{BTreeMap, HashMap};

/// Numbers that methods chose, by the name under which the program asks for them as weights.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    tensors: IndexMap<Name, (Type, Vec<u8>)>,
}

impl Overlay {
    /// The array of that name, if it is one of these and not the checkpoint's.
    pub fn get(&self, name: &str) -> Option<Array<'_>> {
        let (ty, bytes) = self.tensors.get(name)?;
        let shape: Vec<usize> = ty.shape.iter().filter_map(ir::Dim::size).collect();
        Some(Array::new(ty.dtype, &shape, &bytes[..]))
    }

    /// Takes a tensor, under that name or one made from it, or finds the equal one that has it.
    fn add(&mut self, name: &str, ty: Type, bytes: Vec<u8>) -> Name {
        let tensor = (ty, bytes);
        let mut own = Name::from(name);
        let mut number = 0;
        while self.tensors.get(&own).is_some_and(|there| *there != tensor) {
            number += 1;
            own = format!("{name}.{number}").into();
        }
        self.tensors.insert(own.clone(), tensor);
        own
    }

    /// Every name, with its type.
    pub fn types(&self) -> impl Iterator<Item = (&Name, &Type)> {
        self.tensors.iter().map(|(name, (ty, _))| (name, ty))
    }

    /// Bytes of all.
    pub fn bytes(&self) -> usize {
        self.tensors.values().map(|(_, bytes)| bytes.len()).sum()
    }
}

/// The program with the chosen sites' weights said as encoded, and the numbers that it then needs. Calls that chose the
/// same forms share a graph.
///
/// # Errors
/// Numbers whose sizes do not fit their site.
pub fn apply(
    program: &Program,
    choices: &[(Site, Encoded)],
) -> Result<(Program, Overlay), TypeError> {
    let mut by_call: BTreeMap<usize, BTreeMap<Value, (&str, &Encoded)>> = BTreeMap::new();
    for (site, encoded) in choices {
        if *encoded != Encoded::Stored {
            let name = site.names.first().map_or("weight", |name| name);
            let call = by_call.entry(site.call).or_default();
            call.insert(site.weight, (name, encoded));
        }
    }
    let mut out = program.clone();
    let mut overlay = Overlay::default();
    for (call, choices) in by_call {
        let graph = &program.graphs[&program.calls[call].graph];
        let mut said = Said::default();
        let new = said.graph(graph, &choices)?;
        let name = out.graph(program.calls[call].graph.clone(), new);
        for (tensor, ty, bytes) in said.tensors {
            let tensor = overlay.add(&tensor, ty.clone(), bytes);
            out.calls[call].args.push(Operand::Weight(tensor.clone()));
            out.weights.insert(tensor, ty);
        }
        out.calls[call].graph = name;
    }
    out.graphs
        .retain(|name, _| out.calls.iter().any(|call| call.graph == *name));
    Ok((out, overlay))
}

/// One call's graph on its way.
#[derive(Default)]
struct Said {
    /// Names, types and bytes, in the order of the inputs that were added.
    tensors: Vec<(String, Type, Vec<u8>)>,
    /// Scales of inputs, which weights that multiply the same inputs share.
    scales: Vec<(Vec<u8>, Value)>,
}

impl Said {
    fn graph(
        &mut self,
        graph: &Graph,
        choices: &BTreeMap<Value, (&str, &Encoded)>,
    ) -> Result<Graph, TypeError> {
        let mut out = Graph::new();
        let mut made: HashMap<Value, Value> = HashMap::new();
        for v in graph.inputs() {
            if let Some((name, role)) = graph.as_input(*v) {
                made.insert(*v, out.input(name.clone(), role, graph.ty(*v).clone()));
            }
        }
        // Weights come first: inputs are the signature, and are added before anything reads them.
        let mut terms = BTreeMap::new();
        for (i, (weight, (name, encoded))) in choices.iter().enumerate() {
            let place = Place {
                tensor: name,
                input: &format!("said.{i}"),
            };
            let term = self.declare(&mut out, place, "", encoded)?;
            terms.insert(*weight, term);
        }
        for v in graph.cone(&graph.outputs) {
            let Node::Op { op, args } = graph.node(v) else {
                continue;
            };
            let new = match (op, &args[..]) {
                (Op::Linear(_), [x, w]) if terms.contains_key(w) => {
                    let stored = made[w];
                    product(&mut out, made[x], stored, &terms[w])?
                }
                _ => {
                    let args: Vec<Value> = args.iter().map(|a| made[a]).collect();
                    out.add(op.clone(), &args)?
                }
            };
            made.insert(v, new);
        }
        out.outputs = graph.outputs.iter().map(|v| made[v]).collect();
        Ok(out)
    }

    /// Inputs for the numbers, and the weights that they stand for.
    fn declare(
        &mut self,
        g: &mut Graph,
        at: Place,
        part: &str,
        encoded: &Encoded,
    ) -> Result<Term, TypeError> {
        let mut input = |g: &mut Graph, own: &str, ty: Type, bytes: Vec<u8>| {
            let tensor = format!("{}{part}{own}", at.tensor);
            self.tensors.push((tensor, ty.clone(), bytes));
            g.input(format!("{}{part}{own}", at.input), Role::Weight, ty)
        };
        Ok(match encoded {
            Encoded::Stored => Term::Stored,
            Encoded::Float { dtype, values } => {
                let bytes = floats(*dtype, &values.data);
                let ty = Type::new(*dtype, [values.rows, values.columns]);
                let v = input(g, ".values", ty, bytes);
                Term::Weight(g.add(Cast { to: DType::F32 }, &[v])?)
            }
            Encoded::Grouped(i) => Term::Weight(grouped(g, &mut input, i)?),
            Encoded::Dynamic(i) => Term::Dynamic(i.group, grouped(g, &mut input, i)?),
            Encoded::Product(left, right) => Term::Product(
                Box::new(self.declare(g, at, &format!("{part}.left"), left)?),
                Box::new(self.declare(g, at, &format!("{part}.right"), right)?),
            ),
            Encoded::Sum(a, b) => Term::Sum(
                Box::new(self.declare(g, at, &format!("{part}.base"), a)?),
                Box::new(self.declare(g, at, &format!("{part}.rest"), b)?),
            ),
            Encoded::Scaled { scale, weight, .. } => {
                let inverse: Vec<f32> = scale.iter().map(|s| 1.0 / s).collect();
                let ty = Type::new(DType::F32, [inverse.len()]);
                let bytes = floats(DType::F32, &inverse);
                let known = self.scales.iter().find(|(known, _)| *known == bytes);
                let by = match known {
                    Some((_, by)) => *by,
                    None => {
                        let by = input(g, ".inverse", ty, bytes.clone());
                        self.scales.push((bytes, by));
                        by
                    }
                };
                Term::Scaled(by, Box::new(self.declare(g, at, part, weight)?))
            }
            Encoded::Rotated { block, weight } => {
                let block = (*block).into();
                Term::Rotated(block, Box::new(self.declare(g, at, part, weight)?))
            }
        })
    }
}

/// What the parts of an encoded weight are named after.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Among the program's weights.
    tensor: &'a str,
    /// Among the graph's inputs.
    input: &'a str,
}

/// An encoded weight as values of the graph.
enum Term {
    Stored,
    Weight(Value),
    Dynamic(usize, Value),
    Product(Box<Term>, Box<Term>),
    Sum(Box<Term>, Box<Term>),
    Scaled(Value, Box<Term>),
    Rotated(i64, Box<Term>),
}

/// `x` times the transposed weight.
fn product(g: &mut Graph, x: Value, stored: Value, term: &Term) -> Result<Value, TypeError> {
    match term {
        Term::Stored => g.add(Linear, &[x, stored]),
        Term::Weight(w) => g.add(Linear, &[x, *w]),
        Term::Dynamic(group, w) => {
            let rounded = FakeQuantize {
                element: Element::Q8,
                group: *group as i64,
                scale: DType::F32,
            };
            let x = g.add(rounded, &[x])?;
            g.add(Linear, &[x, *w])
        }
        Term::Product(left, right) => {
            let inner = product(g, x, stored, right)?;
            product(g, inner, stored, left)
        }
        Term::Sum(a, b) => {
            let (a, b) = (product(g, x, stored, a)?, product(g, x, stored, b)?);
            g.add(Add, &[a, b])
        }
        Term::Rotated(block, term) => {
            let x = g.add(Hadamard { block: *block }, &[x])?;
            product(g, x, stored, term)
        }
        Term::Scaled(by, term) => {
            let x = g.add(Mul, &[x, *by])?;
            product(g, x, stored, term)
        }
    }
}

/// Declares an input of a name, type and bytes.
type Declare<'a> = dyn FnMut(&mut Graph, &str, Type, Vec<u8>) -> Value + 'a;

/// The values that codes stand for, their parts declared by `input`.
fn grouped(g: &mut Graph, input: &mut Declare, i: &Grouped) -> Result<Value, TypeError> {
    let ([n, k], element) = (i.shape, i.element);
    let shared = [n, k / i.group.max(1)];
    let codes = Type::new(element.storage(), i.shape);
    let scales = i.scales.iter().flat_map(|s| s.to_le_bytes());
    let mut args = vec![
        input(g, ".codes", codes, stored(&i.codes, element)),
        input(
            g,
            ".scales",
            Type::new(DType::F16, shared),
            scales.collect(),
        ),
    ];
    if element.zero() {
        let zeros = i.zeros.iter().map(|z| *z as u8);
        args.push(input(
            g,
            ".zeros",
            Type::new(DType::I8, shared),
            zeros.collect(),
        ));
    }
    let op = Dequantize {
        element,
        group: i.group as i64,
    };
    g.add(op, &args)
}

fn floats(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::BF16 => {
            let narrow = values.iter().map(|x| half::bf16::from_f32(*x));
            narrow.flat_map(|x| x.to_le_bytes()).collect()
        }
        DType::F16 => {
            let narrow = values.iter().map(|x| half::f16::from_f32(*x));
            narrow.flat_map(|x| x.to_le_bytes()).collect()
        }
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}
