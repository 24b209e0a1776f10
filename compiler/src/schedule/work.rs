//! What a scheduled kernel does, in numbers over the program's symbols. Knows no times.

use super::{Buffer, Kernel, Schedule, Step, Template, View};
use ir::{
    Dim, Graph, OpKind, Type,
    abi::{Codec, Layout},
    artifact::{Attention, Core, Product, Work},
};

impl Schedule {
    /// What each kernel does, in order.
    pub fn work(&self) -> Vec<Work<Dim>> {
        let step = |kernel| self.steps.iter().find(|s| s.kernel == kernel);
        let works = self.kernels.iter().enumerate();
        works.map(|(i, kernel)| kernel.work(step(i))).collect()
    }
}

impl Kernel {
    /// `step` is one that runs it: where its operands come from.
    fn work(&self, step: Option<&Step>) -> Work<Dim> {
        let (out, reads) = self.views.split_last().expect("a kernel writes something");
        let from_weights =
            |i: usize| step.is_some_and(|s| matches!(s.operands[i].buffer, Buffer::Weight(_)));
        let mut work = Work {
            elided: self.elided.then(|| rows(out)),
            ..Work::default()
        };
        let mut add = |i: usize, bytes: Dim| {
            let sum = match from_weights(i) {
                true => &mut work.weights,
                false => &mut work.values,
            };
            *sum = sum.clone() + bytes;
        };
        match &self.template {
            Template::Map { body, scatter, .. } => {
                let written = body.ty(body.outputs[0]);
                let space = match scatter {
                    Some(_) => written.shape.first().cloned().unwrap_or_else(|| 1.into()),
                    None => rows(out),
                };
                let own = self.inlined.first().map_or(reads.len(), |i| i.first);
                for (i, view) in reads.iter().enumerate().take(own) {
                    add(i, touched(view, &space));
                }
                add(reads.len(), written.numel() * out.dtype.bytes().into());
                work.elements = written.numel();
                work.flops = flops(body, 0);
            }
            Template::Gemm {
                body,
                weights,
                columns,
                codec,
                rows: inputs,
            } => {
                let x = &reads[0];
                let depth = x.shape.last().cloned().unwrap_or_else(|| 1.into());
                let k = usize::try_from(depth.known().unwrap_or(0)).unwrap_or(0);
                let n = usize::try_from(*columns).unwrap_or(0);
                let panels = (codec.panel(k) * codec.panels(n) * weights).into();
                add(1, panels);
                add(0, rows(x) * inputs.row(k).into());
                let own = self.inlined.first().map_or(reads.len(), |i| i.first);
                for (i, view) in reads.iter().enumerate().take(own).skip(1 + weights) {
                    add(i, touched(view, &rows(out)));
                }
                let elements = rows(out) * (*columns).into();
                add(reads.len(), elements.clone() * out.dtype.bytes().into());
                work.elements = elements;
                work.flops = flops(body, *weights);
                work.core = Core::Product(Product {
                    rows: rows(x),
                    depth,
                    columns: (n * weights).into(),
                    inputs: match inputs {
                        Codec::Plain(_) => Codec::Plain(x.dtype),
                        grouped => *grouped,
                    },
                    codec: *codec,
                });
            }
            Template::Attention(_) => {
                let [q, k, v] = [&reads[0], &reads[1], &reads[2]];
                for (i, view) in [q, k, v].into_iter().enumerate() {
                    add(i, numel(view) * view.dtype.bytes().into());
                }
                add(reads.len(), numel(out) * out.dtype.bytes().into());
                let axis = |view: &View, i: usize| view.shape[i].clone();
                let group = axis(q, 1)
                    .div_exact(&axis(k, 1))
                    .unwrap_or_else(|| 1.into());
                work.elements = numel(out);
                work.core = Core::Attention(Attention {
                    heads: axis(k, 1),
                    rows: axis(q, 0) * group,
                    keys: axis(k, 0),
                    dim: axis(q, 2),
                    dtype: k.dtype,
                    cached: axis(k, 0) != axis(q, 0),
                });
            }
        }
        work
    }
}

/// The first axis.
fn rows(view: &View) -> Dim {
    view.shape.first().cloned().unwrap_or_else(|| 1.into())
}

/// Elements in memory: those that are read again and again along an axis count once.
fn numel(view: &View) -> Dim {
    let axes = view.shape.iter().zip(&view.strides);
    let axes = axes.filter(|(_, stride)| **stride != 0);
    axes.fold(1.into(), |n, (dim, _)| n * dim.clone())
}

/// Bytes that a kernel of `space` rows reads of a view: of a table, of which it looks rows up, as many rows.
fn touched(view: &View, space: &Dim) -> Dim {
    let bytes = numel(view) * view.dtype.bytes().into();
    let first = rows(view);
    let table = view.layout != Layout::Rows
        || first.known().is_some_and(|n| n > 1) && space.known().is_none() && view.shape.len() > 1;
    match bytes.div_exact(&first) {
        Some(row) if table => row * space.clone(),
        _ => bytes,
    }
}

/// Operations of a body whose first inputs are accumulators; none of one that gives an accumulator as it is.
fn flops(body: &Graph, accumulators: usize) -> Dim {
    let direct = body.inputs()[..accumulators].contains(&body.outputs[0]);
    if direct {
        return 0.into();
    }
    let ops = body.cone(&body.outputs);
    let ops = ops.into_iter().filter_map(|v| Some((v, body.op(v)?)));
    let ops = ops.filter(|(_, op)| op.kind() != OpKind::Const);
    ops.map(|(v, op)| {
        let args: Vec<Type> = body.args(v).iter().map(|a| body.ty(*a).clone()).collect();
        op.flops(&args, body.ty(v))
    })
    .fold(0.into(), |sum, flops| sum + flops)
}
