//! What a kernel may absorb, generated from each op's class: products become gemms, other ops maps (the theme
//! [`KERNELS`]); elementwise ops join a gemm's body, elementwise and row-wise ops join a map's (`fusion`). A new op gets
//! its rules, and their examples, from here.

use super::{Finds, KERNELS, Rule, rules};
use crate::optimize::term;
use ir::{Attr, Class, OpKind, Type};

/// An op with arguments it accepts.
pub struct Sample {
    /// The op.
    pub kind: OpKind,
    /// Types of its arguments and how an example declares them.
    pub args: Vec<(Type, &'static str)>,
    /// ` ?eps`: its attributes as variables.
    pub attrs: String,
    /// `; eps = 0.1`: their values in an example.
    pub values: String,
}

/// Argument lists of which every fusable op accepts one, or several of different lengths.
const ARGUMENTS: &[&[&str]] = &[
    &["f32[T,8]"],
    &["f32[T,8]", "f32[T,8]"],
    &["f32[T,8]", "f32[T,8]", "f32[T,8]"],
    &["f32[T,8]", "f32[T,8]", "f32[T,8]", "f32[T,8]"],
    &["bool[T,8]", "f32[T,8]", "f32[T,8]"],
    &["f32[T,2,8]", "f32[T,1,4]", "f32[T,1,4]"],
    &["f32[T,8]", "f32[8]"],
    &["f32[8,8]", "i32[T] in 0..8"],
    &["f32[R,8]", "i32[T] distinct R", "f32[T,8]"],
];

/// Values of which every attribute of a fusable op accepts one.
const ATTRIBUTES: &[&str] = &["0.1", "1", "bf16", "4"];

/// Every elementwise and row-wise op, with arguments it accepts: one sample for each number of them.
pub fn samples() -> Vec<Sample> {
    let fusable = |k: &&OpKind| matches!(k.class(), Class::Elementwise | Class::Rowwise);
    OpKind::ALL
        .iter()
        .filter(fusable)
        .flat_map(|k| sample(*k))
        .collect()
}

fn sample(kind: OpKind) -> Vec<Sample> {
    let names = kind.attr_names();
    let mut choices: Vec<Vec<&str>> = vec![vec![]];
    for _ in names {
        choices = choices
            .into_iter()
            .flat_map(|c| ATTRIBUTES.iter().map(move |a| [&c[..], &[*a]].concat()))
            .collect();
    }
    for chosen in choices {
        let attrs: Option<Vec<Attr>> = chosen.iter().map(|a| term::attr(a).ok()).collect();
        let Some(op) = attrs.and_then(|a| kind.build(&a)) else {
            continue;
        };
        let mut found: Vec<Sample> = vec![];
        for list in ARGUMENTS {
            let types = list.iter().map(|a| {
                let ty = a.split(' ').next().unwrap_or_default();
                term::attr(ty).ok().and_then(|a| Type::try_from(a).ok())
            });
            let Some(types) = types.collect::<Option<Vec<Type>>>() else {
                continue;
            };
            let named = names.iter().zip(&chosen);
            if op.infer(&types).is_ok() && found.iter().all(|s| s.args.len() != types.len()) {
                found.push(Sample {
                    kind,
                    args: types.into_iter().zip(list.iter().copied()).collect(),
                    attrs: names.iter().map(|n| format!(" ?{n}")).collect(),
                    values: named.map(|(n, v)| format!("; {n} = {v}")).collect(),
                });
            }
        }
        if !found.is_empty() {
            return found;
        }
    }
    vec![]
}

/// The argument whose rows a kernel of this op walks over; any for an elementwise op.
fn absorbs(kind: OpKind, position: usize) -> bool {
    match (kind, kind.class()) {
        (OpKind::Scatter, _) => position == 2,
        (_, Class::Elementwise) => true,
        _ => position == 0,
    }
}

/// Names of the arguments.
const ARGS: [&str; 4] = ["?a", "?b", "?c", "?d"];

pub fn rules() -> Vec<Rule> {
    let mut all = rules! { KERNELS;
        "gemm": "(matmul ?x ?w)" => "(gemm ?x ?w (acc 0 ($type ?self)))" if "weight ?w, data ?x, closed ?x";
            "x: f32[T,8]; w: weight f32[8,4]"
        "map-transpose": "(transpose ?x ?p)" => "(map ?x (transpose (acc 0 ($type ?x)) ?p))" if "data ?x, closed ?x";
            "x: f32[T,2,8]; p = [0,2,1]"
        "map-fake-quantize": "(fake_quantize ?x ?b ?g ?s)" => "(map ?x (fake_quantize (acc 0 ($type ?x)) ?b ?g ?s))" if "data ?x, closed ?x";
            "x: f32[T,64]; b = q8; g = 32; s = f32"
    };
    all.extend(rules! { "fusion";
        "map-then-fake-quantize": "(fake_quantize (map ?x ?e) ?b ?g ?s)" => "(map ?x (fake_quantize ?e ?b ?g ?s))" if "closed ?x, plain ?e";
            "x: f32[T,64]; e := (tanh (acc 0 f32[T,64])); b = q8; g = 32; s = f32"
    });
    for sample in samples() {
        for position in 0..sample.args.len() {
            if absorbs(sample.kind, position) {
                absorb(&sample, position, &mut all);
            }
        }
        if sample.kind.class() == Class::Elementwise && sample.args.len() == 2 {
            pair(&sample, &mut all);
        }
    }
    all
}

/// Rules by which a kernel absorbs the op through one of its arguments.
fn absorb(sample: &Sample, position: usize, all: &mut Vec<Rule>) {
    let (kind, n) = (sample.kind, sample.args.len());
    let with = |inner: &str| {
        let args: Vec<&str> = (0..n)
            .map(|i| if i == position { inner } else { ARGS[i] })
            .collect();
        format!("({} {}{})", kind.name(), args.join(" "), sample.attrs)
    };
    let others: Vec<usize> = (0..n).filter(|i| *i != position).collect();
    let declared = |i: &usize| format!("; {}: {}", &ARGS[*i][1..], sample.args[*i].1);
    let given = others.iter().map(declared).collect::<String>() + &sample.values;
    let mut closed: String = others.iter().map(|i| format!(" {}", ARGS[*i])).collect();
    if !closed.is_empty() {
        closed = format!("closed{closed}, ");
    }
    let (ty, declaration) = &sample.args[position];
    let elementwise = kind.class() == Class::Elementwise;
    let rows = |of: &str| {
        if elementwise {
            format!(", rows {of} ?self")
        } else {
            String::new()
        }
    };
    let mut push = |form: &str, lhs: String, rhs: String, guard: String, example: String| {
        all.push(Rule {
            theme: if form == "map" { KERNELS } else { "fusion" },
            name: format!(
                "{form}-{}{}",
                kind.name(),
                match kind {
                    // The one op of any number of arguments.
                    OpKind::Concat => ["", "-of-1", "-of-2", "-of-3", "-of-4"][n],
                    _ => ["", "-second", "-third"][if elementwise { position } else { 0 }],
                }
            ),
            lhs,
            rhs,
            guard,
            example,
            finds: Finds::Pattern,
        });
    };
    push(
        "map",
        with("?x"),
        format!("(map ?x {})", with("(acc 0 ($type ?x))")),
        format!("{closed}closed ?x, data ?self{}", rows("?x")),
        format!("x: {declaration}{given}"),
    );
    let body = if ty.dtype.is_float() {
        format!("(tanh (acc 0 {ty}))")
    } else {
        format!("(acc 0 {ty})")
    };
    if kind == OpKind::Gather {
        // A kernel gathers what it loads, not what it computes.
        return;
    }
    // A kernel that rounds its rows to integers does nothing after it but to put them somewhere.
    let plain = match kind {
        OpKind::Scatter => "",
        _ => ", plain ?e",
    };
    push(
        "map-then",
        with("(map ?x ?e)"),
        format!("(map ?x {})", with("?e")),
        format!("{closed}closed ?x{plain}{}", rows("?e")),
        format!("x: {declaration}; e := {body}{given}"),
    );
    if elementwise && ty.dtype.is_float() {
        push(
            "gemm-then",
            with("(gemm ?x ?w ?e)"),
            format!("(gemm ?x ?w {})", with("?e")),
            format!("{closed}closed ?x"),
            format!("x: f32[T,4]; w: weight f32[4,8]; e := (tanh (acc 0 {ty})){given}"),
        );
        push(
            "gemm-pair-then",
            with("(gemm ?x ?w ?v ?e)"),
            format!("(gemm ?x ?w ?v {})", with("?e")),
            format!("{closed}closed ?x"),
            format!(
                "x: f32[T,4]; w: weight f32[4,8]; v: weight f32[4,8]; e := (mul (acc 0 {ty}) (acc 1 {ty})){given}"
            ),
        );
    }
}

/// Rules by which one kernel computes both arguments of an op.
fn pair(sample: &Sample, all: &mut Vec<Rule>) {
    let f = sample.kind.name();
    let gemm = "x: f32[T,4]; w: weight f32[4,8]; v: weight f32[4,8]; t = f32[T,8]; e := (tanh (acc 0 f32[T,8]))";
    let map = "x: f32[T,8]; d := (tanh (acc 0 f32[T,8])); e := (exp (acc 0 f32[T,8]))";
    let forms = [
        (
            "gemms",
            "(F (gemm ?x ?w ?e) (gemm ?x ?v (acc 0 ?t)))",
            "(gemm ?x ?w ?v (F ?e (acc 1 ?t)))",
            gemm,
        ),
        (
            "gemms-turned",
            "(F (gemm ?x ?v (acc 0 ?t)) (gemm ?x ?w ?e))",
            "(gemm ?x ?w ?v (F (acc 1 ?t) ?e))",
            gemm,
        ),
        (
            "self",
            "(F ?x ?x)",
            "(map ?x (F (acc 0 ($type ?x)) (acc 0 ($type ?x))))",
            map,
        ),
        (
            "map-self",
            "(F (map ?x ?e) ?x)",
            "(map ?x (F ?e (acc 0 ($type ?x))))",
            map,
        ),
        (
            "self-map",
            "(F ?x (map ?x ?e))",
            "(map ?x (F (acc 0 ($type ?x)) ?e))",
            map,
        ),
        (
            "maps",
            "(F (map ?x ?d) (map ?x ?e))",
            "(map ?x (F ?d ?e))",
            map,
        ),
    ];
    for (form, lhs, rhs, example) in forms {
        // A kernel that rounds its rows to integers does nothing after it.
        let guard = match form {
            "gemms" | "gemms-turned" => "closed ?x, alike ?w ?v",
            "self" => "closed ?x, data ?x, rows ?x ?self",
            "maps" => "closed ?x, data ?x, plain ?d, plain ?e, rows ?x ?self",
            _ => "closed ?x, data ?x, plain ?e, rows ?x ?self",
        };
        all.push(Rule {
            theme: "fusion",
            name: format!("{form}-{f}"),
            lhs: lhs.replace('F', f),
            rhs: rhs.replace('F', f),
            guard: guard.into(),
            example: format!("{example}{}", sample.values),
            finds: Finds::Pattern,
        });
    }
}
