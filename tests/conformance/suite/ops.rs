//! Every op by itself, at odd shapes. A new op is covered as soon as it is listed: attributes and arguments are found
//! by asking it what it accepts.

use super::check;
use crate::targets;
use ir::{Attr, DType, Dim, Element, Float, Graph, Op, OpKind, Role, Sym, Type, ops};

/// Ops that are no graph by themselves.
const EXEMPT: &[(OpKind, &str)] = &[
    (OpKind::Acc, "stands in bodies alone"),
    (
        OpKind::Map,
        "a kernel: every other op becomes one or goes into one",
    ),
    (OpKind::Gemm, "a kernel: what matmul becomes"),
];

/// Argument lists: a role, if not data, and a type each. Of every length and form that some op wants; an op is run
/// with each list that it accepts.
const ARGUMENTS: &[&str] = &[
    "",
    "f32[T,7]",
    "f32[T]",
    "f32[T,64]",
    "f32[T,2,32]",
    "f32[3,5]",
    "f32[T,2,7]",
    "i32[T]",
    "i32[T,5]",
    "bool[T,5]",
    "f32[T,7]; f32[T,7]",
    "f32[T,7]; f32[7]",
    "f32[T,1]; f32[T,9]",
    "f32[T,2,7]; f32[2,1]",
    "f32[T]; f32[T]",
    "f32[]; f32[T,5]",
    "i32[T,5]; i32[T,5]",
    "f32[T,7]; weight f32[7]",
    "f32[T,7]; f32[T,7]; f32[T,7]",
    "bool[T,7]; f32[T,7]; f32[T,7]",
    "bool[T,1]; f32[T,9]; f32[9]",
    "f32[T,5]; weight f32[5,7]",
    "f32[T,7]; weight f32[5,7]",
    "f32[T,2,5]; weight f32[5,19]",
    "f32[R,7]; i32[T]",
    "f32[R,2,7]; i32[T]",
    "f32[R]; i32[T]",
    "i32[R]; i32[T]",
    "f32[9,7]; i32[4]",
    "f32[9]; i32[4]",
    "weight f32[9,7]; i32[T]",
    "state f32[R,7]; i32[T]; f32[T,7]",
    "state f32[R,2,7]; i32[T]; f32[T,2,7]",
    "state f32[9,7]; i32[4]; f32[4,7]",
    "f32[T,2,7]; f32[T,1,3]; f32[T,1,3]",
    "f32[T,2,7]; f32[T,1,2]; f32[T,1,2]",
    "f32[T,4,5]; f32[R,2,5]; f32[R,2,5]; i32[T]; i32[T]",
    "f32[R,7]; i32[L]; i32[L]",
    "f32[T,5]; i32[T,2]; f32[T,2]; weight f32[3,4,5]; weight f32[3,4,5]; weight f32[3,5,4]",
    "weight i8[3,64]; weight f16[3,2]",
    "weight i8[64]; weight f32[2]",
    "weight i8[3,64]; weight f16[3,2]; weight i8[3,2]",
    "weight i16[64]; weight f16[2]",
];

/// Values of which attributes are tried.
fn attributes() -> Vec<Attr> {
    let dims = |d: &[Dim]| Attr::Dims(d.to_vec());
    let t = || Dim::from(&symbol("T"));
    vec![
        Attr::Float(Float::from(0.1)),
        Attr::Int(1),
        Attr::Int(2),
        Attr::Int(5),
        Attr::Int(4),
        Attr::Int(8),
        Attr::Int(32),
        Attr::Element(Element::Q8),
        Attr::Element(Element::U3),
        Attr::Element(Element::Q16),
        Attr::DType(DType::F32),
        Attr::DType(DType::BF16),
        Attr::DType(DType::F16),
        Attr::DType(DType::I32),
        Attr::DType(DType::Bool),
        dims(&[5.into()]),
        dims(&[7.into(), t()]),
        dims(&[t(), 7.into(), 2.into()]),
        dims(&[t(), 1.into(), 7.into()]),
        dims(&[1.into(), 0.into()]),
        dims(&[0.into(), 2.into(), 1.into()]),
    ]
}

fn symbol(name: &str) -> Sym {
    Sym::new(name, if name == "L" { 4 } else { 64 })
}

/// Every application of the op that it accepts and that has elements.
fn applications(kind: OpKind) -> Vec<(Op, &'static str)> {
    let mut choices: Vec<Vec<Attr>> = vec![vec![]];
    for _ in kind.attr_names() {
        choices = choices
            .into_iter()
            .flat_map(|c| {
                attributes()
                    .into_iter()
                    .map(move |a| [&c[..], &[a]].concat())
            })
            .collect();
    }
    let ops: Vec<Op> = choices.iter().filter_map(|c| kind.build(c)).collect();
    let mut found = vec![];
    for list in ARGUMENTS {
        let types: Vec<Type> = arguments(list).into_iter().map(|(_, ty)| ty).collect();
        for op in &ops {
            let out = op.infer(&types);
            let some = |ty: &Type| ty.shape.iter().all(|d| d.known() != Some(0));
            if out.is_ok_and(|ty| some(&ty)) {
                found.push((op.clone(), *list));
            }
        }
    }
    found
}

fn arguments(list: &str) -> Vec<(Role, Type)> {
    let parts = list.split(';').map(str::trim).filter(|p| !p.is_empty());
    parts
        .map(|part| {
            let (role, ty) = match part.split_once(' ') {
                Some(("weight", ty)) => (Role::Weight, ty),
                Some(("state", ty)) => (Role::State, ty),
                _ => (Role::Data, part),
            };
            let (dtype, dims) = ty.trim_end_matches(']').split_once('[').unwrap();
            let dtype = DType::ALL.into_iter().find(|d| d.name() == dtype).unwrap();
            let dims = dims.split(',').filter(|d| !d.is_empty());
            let dims = dims.map(|d| match d.parse::<i64>() {
                Ok(n) => Dim::from(n),
                Err(_) => Dim::from(&symbol(d)),
            });
            (role, Type::new(dtype, dims))
        })
        .collect()
}

/// The op alone. Truth values are made from numbers, and results are made numbers: at the border of a program all are.
fn graph(op: &Op, list: &str) -> Graph {
    let mut g = Graph::new();
    let mut args = vec![];
    for (i, (role, ty)) in arguments(list).into_iter().enumerate() {
        let bool = ty.dtype == DType::Bool;
        let dtype = if bool { DType::F32 } else { ty.dtype };
        let v = g.input(format!("a{i}"), role, Type { dtype, ..ty });
        args.push(match bool {
            true => {
                let zero = g.constant(0.0);
                g.add(ops::Lt, &[zero, v]).unwrap()
            }
            false => v,
        });
    }
    let mut out = g.add(op.clone(), &args).unwrap();
    if g.ty(out).dtype != DType::F32 {
        out = g.add(ops::Cast { to: DType::F32 }, &[out]).unwrap();
    }
    g.outputs = vec![out];
    g
}

/// Whether the compiler may refuse the graph: what no kernel covers, and says so.
fn uncovered(op: &Op, g: &Graph) -> bool {
    let ty = g.ty(g.outputs[0]);
    let inner_symbol = ty.shape.iter().skip(1).any(|d| d.known().is_none());
    let along_rows = |axis: i64| axis + 1 != ty.shape.len() as i64;
    match op {
        // Rows of symbolic length have no strides.
        _ if inner_symbol => true,
        Op::Iota(i) => i.n[0].known().is_none(),
        Op::Concat(c) => along_rows(c.axis),
        // A product of two tensors that are both data.
        Op::MatMul(_) | Op::Linear(_) => g
            .inputs()
            .iter()
            .all(|v| g.as_input(*v).unwrap().1 == Role::Data),
        // Activations have scales of f32.
        Op::FakeQuantize(q) => q.scale != DType::F32,
        // A whole row of symbolic length.
        Op::Sum(_) | Op::Amax(_) | Op::Softmax(_) => g.ty(g.inputs()[0]).last().known().is_none(),
        _ => false,
    }
}

#[test]
fn every_op_runs_as_interpreted() {
    let mut refused = vec![];
    for kind in OpKind::ALL {
        if EXEMPT.iter().any(|(k, _)| k == kind) {
            continue;
        }
        let applications = applications(*kind);
        assert!(
            !applications.is_empty(),
            "{} accepts none of the argument lists and attributes: add some that it does",
            kind.name()
        );
        let mut ran = 0;
        for (op, list) in applications {
            let g = graph(&op, list);
            for target in targets() {
                for rows in [1, 2, 5] {
                    let what = format!("{op:?} of {list} at {rows} rows for {target}");
                    let sizes = [("T", rows), ("R", rows + 4), ("L", 2)];
                    match check(&what, &g, 11, &sizes, &target) {
                        Ok(()) => ran += 1,
                        Err(_) if uncovered(&op, &g) => {}
                        Err(e) => refused.push(format!("{what}: {e}")),
                    }
                }
            }
        }
        if ran == 0 {
            refused.push(format!("{}: nothing ran", kind.name()));
        }
    }
    assert!(refused.is_empty(), "refused:\n{}", refused.join("\n"));
}
