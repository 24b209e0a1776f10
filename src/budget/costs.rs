//! What a product with a weight in some form costs on this machine: measured with the real kernels, once for each shape,
//! and remembered. Knows shapes and forms; neither models nor budgets.

use super::Error;
use crate::{
    ledger::Ledger,
    tune::{Machine, Probe, Shape},
};
use compiler::compress::{Encoded, Form, Grouped, Matrix, Site, apply, sites};
use ir::{
    Call, DType, Dim, Graph, Name, Operand, Program, Role, Sym, Type,
    artifact::Core,
    feed,
    ops::{Cast, Gather, Linear},
};
use runtime::devices::cpu;
use serde::{Serialize, de::DeserializeOwned};
use std::{path::Path, time::Duration};

/// Runs of which the fastest counts: what else happens on a machine only ever adds time, and costs are remembered.
const RUNS: usize = 15;

/// Bytes of weights beyond which a model is larger than any cache.
const LARGE: u64 = 96 << 20;

/// A product to be timed.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// N and K of the weight.
    pub shape: [usize; 2],
    /// How it is said.
    pub form: Form,
    /// The element type of a weight that is said as stored.
    pub stored: DType,
    /// Rows that it multiplies.
    pub tokens: usize,
    /// Bytes of weights that a step reads: whether they come from memory or from a cache.
    pub working_set: u64,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Costs {
    /// Seconds by [`key`].
    known: Ledger<String, f64>,
}

impl Costs {
    /// Those that were measured on this machine before; a file in `folder` remembers them.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn open(folder: Option<&Path>) -> Result<Costs, Error> {
        let known = of_machine(folder, "costs")?;
        Ok(Costs { known })
    }

    /// Seconds of a product: measured where that was not done before.
    ///
    /// # Errors
    /// It does not compile or run.
    pub fn of(&mut self, product: &Product) -> Result<f64, Error> {
        let key = key(product);
        if let Some(seconds) = self.known.known().get(&key) {
            return Ok(*seconds);
        }
        let seconds = measure(product)?;
        // A folder that cannot be written to costs time at the next start, and nothing else.
        let _ = self.known.extend(vec![(key.clone(), seconds)]);
        // Another program may have been first: then all go by what it found.
        Ok(self.known.known().get(&key).copied().unwrap_or(seconds))
    }
}

fn key(p: &Product) -> String {
    let [n, k] = p.shape;
    let form = match &p.form {
        Form::Stored => p.stored.to_string(),
        form => form.to_string(),
    };
    // Sets of about the same size cost the same.
    let set = (p.working_set.clamp(1 << 20, LARGE) >> 20).next_power_of_two();
    format!("{n}x{k} {form} T={} of {set} MB", p.tokens)
}

/// What was measured on this machine, by strings that say of what.
///
/// # Errors
/// The file is there and cannot be read.
pub(super) fn of_machine<V: Serialize + DeserializeOwned>(
    folder: Option<&Path>,
    what: &str,
) -> Result<Ledger<String, V>, Error> {
    let machine = blake3::hash(machine().as_bytes()).to_hex();
    let file = folder.map(|f| f.join(format!("{what}-{}.jsonl", &machine[..16])));
    Ledger::open(file.clone()).map_err(|source| Error::File {
        path: file.unwrap_or_default(),
        source,
    })
}

/// What tells machines apart that run at different speeds.
pub(super) fn machine() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{} / {version}", Machine::cpu(None).key())
}

/// As many products as the working set has room for, each with a weight of its own, one after another.
fn measure(p: &Product) -> Result<f64, Error> {
    let bytes = p.form.bytes(p.shape, p.stored).max(1);
    let count = (p.working_set.clamp(1 << 20, LARGE) / bytes).clamp(2, 256) as usize;
    let program = program(p, count)?;
    let sites = sites(&program);
    let choices: Vec<(Site, Encoded)> = match p.form {
        Form::Stored => vec![],
        _ => {
            let encoded = some(&p.form, p.shape);
            sites
                .into_iter()
                .map(|site| (site, encoded.clone()))
                .collect()
        }
    };
    let (program, overlay) = apply(&program, &choices)?;
    let shape = Shape {
        context: p.tokens,
        vocabulary: p.tokens,
        decodes: false,
    };
    let mut probe = Probe::new(program, &overlay, &shape, &cpu::host(), None)?;
    let mut times = vec![];
    for run in 0..=RUNS {
        let timed = probe.encode(&[p.tokens])?;
        // Rows are rounded by the kernel that computes them, whichever that is: not by the product.
        let products = probe.launches().zip(timed);
        let products = products
            .filter(|((call, core), _)| *call == "product" && matches!(core, Core::Product(_)));
        let sum: Duration = products.map(|(_, time)| time).sum();
        if run > 0 {
            times.push(sum.as_secs_f64() / count as f64);
        }
    }
    Ok(times.into_iter().fold(f64::INFINITY, f64::min))
}

/// `count` products of the same rows, each with a weight of its own.
fn program(p: &Product, count: usize) -> Result<Program, Error> {
    let [n, k] = p.shape;
    let most = u32::try_from(p.tokens).unwrap_or(u32::MAX);
    let tokens = Type::new(DType::I32, [Dim::from(&Sym::new(feed::T, most))]);
    let table = Type::new(DType::F32, [p.tokens, k]);
    let weight = Type::new(p.stored, [n, k]);
    let mut embed = Graph::new();
    let ids = embed.input("tokens", Role::Data, tokens.clone());
    let rows = embed.input("table", Role::Weight, table.clone());
    let x = embed.add(Gather, &[rows, ids])?;
    embed.outputs = vec![x];
    let mut product = Graph::new();
    let x = product.input("x", Role::Data, embed.ty(x).clone());
    let stored = product.input("w", Role::Weight, weight.clone());
    let w = match p.stored {
        DType::F32 => stored,
        _ => product.add(Cast { to: DType::F32 }, &[stored])?,
    };
    let y = product.add(Linear, &[x, w])?;
    product.outputs = vec![y];
    let mut program = Program::default();
    program.inputs.insert(feed::TOKENS.into(), tokens);
    program.weights.insert("table".into(), table);
    program.graphs.insert("embed".into(), embed);
    program.graphs.insert("product".into(), product);
    program.calls.push(Call {
        graph: "embed".into(),
        args: vec![
            Operand::Input(feed::TOKENS.into()),
            Operand::Weight("table".into()),
        ],
        updates: vec![],
    });
    for i in 0..count {
        let name: Name = format!("w{i}").into();
        program.weights.insert(name.clone(), weight.clone());
        let x = Operand::Result { call: 0, output: 0 };
        program.calls.push(Call {
            graph: "product".into(),
            args: vec![x, Operand::Weight(name)],
            updates: vec![],
        });
    }
    let last = Operand::Result {
        call: count,
        output: 0,
    };
    program.outputs.insert("last_hidden_state".into(), last);
    Ok(program)
}

/// Some numbers in a form: what they are does not change how long a product takes.
fn some(form: &Form, [n, k]: [usize; 2]) -> Encoded {
    let number = |i: usize| ((i * 7919 + 13) % 255) as i16 - 127;
    match form {
        Form::Stored => Encoded::Stored,
        Form::Float(dtype) => Encoded::float(
            *dtype,
            &Matrix::from_fn(n, k, |i, j| f32::from(number(i * k + j)) * 1e-3),
        ),
        Form::Grouped { element, group } => {
            let groups = n * k / (*group).max(1) as usize;
            Encoded::Grouped(Grouped {
                element: *element,
                group: *group as usize,
                shape: [n, k],
                codes: (0..n * k).map(|i| number(i) % 4).collect(),
                scales: vec![half::f16::from_f32(0.01); groups],
                zeros: vec![0; groups],
            })
        }
        Form::Product { rank, left, right } => {
            let rank = *rank as usize;
            Encoded::Product(
                Box::new(some(left, [n, rank])),
                Box::new(some(right, [rank, k])),
            )
        }
        Form::Sum(a, b) => Encoded::Sum(Box::new(some(a, [n, k])), Box::new(some(b, [n, k]))),
        Form::Scaled { power, weight } => Encoded::Scaled {
            power: *power,
            scale: vec![1.0; k],
            weight: Box::new(some(weight, [n, k])),
        },
        Form::Rotated { block, weight } => Encoded::Rotated {
            block: *block,
            weight: Box::new(some(weight, [n, k])),
        },
        Form::Dynamic(form) => match some(form, [n, k]) {
            Encoded::Grouped(integers) => Encoded::Dynamic(integers),
            other => other,
        },
    }
}
