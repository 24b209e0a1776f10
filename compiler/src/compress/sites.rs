//! Where a program multiplies by weights: the places that alternatives are offered for. Knows no method.

use crate::{
    fold::{Array, Fold, FoldError},
    schedule::{self, Packing, WeightTerm},
};
use ir::{DType, Graph, Name, Op, Operand, Program, Value, abi::Codec};
use std::collections::BTreeMap;

/// A weight `[N, K]` that a call multiplies something by: the second argument of [`ir::ops::Linear`], a tensor of the
/// checkpoint or something computed from such, like a slice of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Index into the program's calls.
    pub call: usize,
    /// In the call's graph.
    pub weight: Value,
    /// What it multiplies, `[.., K]`, in the call's graph.
    pub inputs: Vec<Value>,
    /// The products, `[.., N]`, in the call's graph.
    pub outputs: Vec<Value>,
    /// Of the checkpoint's tensors that it is computed from.
    pub names: Vec<Name>,
    /// N and K.
    pub shape: [usize; 2],
    /// The narrowest element type that stores it exactly.
    pub stored: DType,
}

/// Every site of the program, in the order of its calls.
pub fn sites(program: &Program) -> Vec<Site> {
    let mut known = BTreeMap::new();
    for (name, graph) in &program.graphs {
        known.insert(name, of_graph(graph));
    }
    let mut out = vec![];
    for (c, call) in program.calls.iter().enumerate() {
        for site in &known[&call.graph] {
            let graph = &program.graphs[&call.graph];
            let cone = graph.cone(&[site.weight]);
            let inputs = graph.inputs().iter().zip(&call.args);
            let names = inputs.filter_map(|(input, arg)| match arg {
                Operand::Weight(name) if cone.contains(input) => Some(name.clone()),
                _ => None,
            });
            out.push(Site {
                call: c,
                names: names.collect(),
                ..site.clone()
            });
        }
    }
    out
}

fn of_graph(graph: &Graph) -> Vec<Site> {
    let (known, storage) = (schedule::weights_only(graph), schedule::storage(graph));
    let mut found: BTreeMap<Value, Site> = BTreeMap::new();
    for v in graph.cone(&graph.outputs) {
        let (Some(Op::Linear(_)), [x, w]) = (graph.op(v), graph.args(v)) else {
            continue;
        };
        let sizes = graph.ty(*w).shape.iter().map(ir::Dim::size);
        let sizes: Option<Vec<usize>> = sizes.collect();
        let Some([n, k]) = sizes.as_deref() else {
            continue;
        };
        let f32 = graph.ty(*w).dtype == DType::F32;
        if !known[w.index()] || known[x.index()] || !f32 {
            continue;
        }
        let site = found.entry(*w).or_insert(Site {
            call: 0,
            weight: *w,
            inputs: vec![],
            outputs: vec![],
            names: vec![],
            shape: [*n, *k],
            stored: storage[w.index()].dtype().unwrap_or(DType::F32),
        });
        site.inputs.push(*x);
        site.outputs.push(v);
    }
    found.into_values().collect()
}

impl Site {
    /// The weight's numbers. `input` gives the array behind an argument of the call, by position.
    ///
    /// # Errors
    /// See [`FoldError`].
    pub fn matrix<'a>(
        &self,
        program: &Program,
        input: &dyn Fn(usize) -> Array<'a>,
    ) -> Result<super::Matrix, FoldError> {
        let all: Vec<usize> = (0..self.shape[0]).collect();
        self.rows(program, input, &all)
    }

    /// Some rows of the weight. A weight that is a part of a tensor is read where those lie.
    ///
    /// # Errors
    /// See [`FoldError`].
    pub fn rows<'a>(
        &self,
        program: &Program,
        input: &dyn Fn(usize) -> Array<'a>,
        rows: &[usize],
    ) -> Result<super::Matrix, FoldError> {
        let graph = &program.graphs[&program.calls[self.call].graph];
        let term = WeightTerm {
            value: self.weight,
            codec: Codec::Plain(DType::F32),
            packing: Packing::Rows,
        };
        let data = Fold::new(graph, &[term])?.rows(0, input, rows)?;
        Ok(super::Matrix::new(rows.len(), self.shape[1], data))
    }
}
