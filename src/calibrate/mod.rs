//! What a model does on text, weight by weight: moments of what each weight multiplies, and how much rounding it moves the
//! model's outputs. One pass, layer by layer: beside the weights, only one layer's statistics and what the layers hand on
//! are in memory. Runs compiled code; decides nothing.
//!
//! **Fisher weights are finite differences**: beside each call the compiled program has copies of it in which one weight is
//! rounded to 4 bits, and the model goes on from there to its logits. Reverse mode would give all of them from one pass,
//! but needs products of two activations, of which kernels have none, and its quadratic model would still have to be
//! checked against a rounding; a difference costs half a pass over a few hundred tokens, and is the quantity wanted.

mod error;
mod store;
mod text;
mod walk;

pub use error::Error;
pub use store::{Opened, Sensitivity, Store};
pub use text::Text;

use crate::{measure::kl_of_rows, staged::Staged};
use compiler::{
    Compilation, Options, Stage,
    checkpoint::Checkpoint,
    compress::{Moments, Site},
    optimize::{
        self,
        ablation::Ablation,
        rules::{FOLDING, MERGE},
    },
    plan::{Observed, Sums},
};
use ir::{Description, Name, Operand, Program, feed};
use runtime::{Model, Select, devices::Bytes};
use std::{collections::BTreeMap, io::BufWriter, path::Path, sync::Arc};
use walk::{Kept, Walk};

/// Fewest tokens that sensitivities are measured on.
const PROBED: usize = 512;

/// Told how far calibration is: `(what, done, of)`.
pub type Progress<'a> = &'a dyn Fn(&'static str, usize, usize);

/// Statistics of a model on a text.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// Where moments lie.
    pub store: Store,
    /// For each site the number of its moments among those of its call.
    pub moments: Vec<usize>,
    /// For each site; `None` where it cannot be rounded.
    pub sensitivities: Vec<Option<Sensitivity>>,
}

impl Calibration {
    /// Moments of a call, each with the indices of the sites that multiply such inputs.
    ///
    /// # Errors
    /// The file is gone or damaged.
    pub fn of_call(&self, sites: &[Site], call: usize) -> Result<(Opened, Vec<Vec<usize>>), Error> {
        let opened = self.store.open(call)?;
        let mut all = vec![vec![]; opened.count()];
        for s in (0..sites.len()).filter(|s| sites[*s].call == call) {
            let own = all.get_mut(self.moments[s]).ok_or_else(|| Error::Damaged {
                path: self.store.folder().into(),
                why: format!("call {call} lacks moments {}", self.moments[s]),
            })?;
            own.push(s);
        }
        Ok((opened, all))
    }
}

/// Calibrates `program`, as the family built it, on a text. Goes on where an earlier pass into the same store stopped.
///
/// # Errors
/// A model without logits, or one that does not compile or run; the disk.
pub fn calibrate(
    checkpoint: &Checkpoint,
    (program, description): (&Program, &Description),
    sites: &[Site],
    text: &Text,
    store: Store,
    progress: Progress<'_>,
) -> Result<Calibration, Error> {
    let observed = Observed::new(program, sites)?;
    let moments = numbers(sites, &observed);
    let known = store.sensitivities()?;
    let calls: Vec<usize> = (0..program.calls.len())
        .filter(|c| sites.iter().any(|s| s.call == *c))
        .collect();
    let probes = |s: &usize| observed.probes[*s].is_some() && !known.contains_key(s);
    let done = calls.iter().all(|c| store.has(*c)) && !(0..sites.len()).any(|s| probes(&s));
    if !done {
        let model = compile(checkpoint, &observed, description, store.folder(), progress)?;
        watch(&observed, sites, &moments, &model, text, &store, progress)?;
        probe(&observed, sites, &model, text, &store, known, progress)?;
    }
    let known = store.sensitivities()?;
    Ok(Calibration {
        moments,
        sensitivities: (0..sites.len()).map(|s| known.get(&s).copied()).collect(),
        store,
    })
}

/// For each site the number of what it multiplies, among different ones of its call.
fn numbers(sites: &[Site], observed: &Observed) -> Vec<usize> {
    let mut found: BTreeMap<usize, Vec<&Operand>> = BTreeMap::new();
    let numbered = sites.iter().zip(&observed.inputs).map(|(site, input)| {
        let known = found.entry(site.call).or_default();
        known.iter().position(|i| *i == input).unwrap_or_else(|| {
            known.push(input);
            known.len() - 1
        })
    });
    numbered.collect()
}

/// The observed program as a model, in a file without a name in `folder`: of its weights only those that are read have to be
/// in memory.
fn compile(
    checkpoint: &Checkpoint,
    observed: &Observed,
    description: &Description,
    folder: &Path,
    progress: Progress<'_>,
) -> Result<Arc<Model>, Error> {
    let options = Options::new(runtime::devices::cpu::host());
    let tokens = [(feed::T, 512), (feed::L, 1), (feed::B, 4), (feed::R, 512)];
    let told = |_: Stage, done: u64, of: u64| progress("compiling", done as usize, of as usize);
    let program = observed.program.clone();
    let sizes = optimize::Options {
        // A layer and its copies share every weight but the one that is rounded, and gains in weights make f32 of bf16.
        without: Ablation::of([MERGE, FOLDING]),
        ..optimize::Options::at(tokens)
    };
    let compilation = Compilation::of(program, description.clone(), &sizes, &options, &told)?;
    let types = observed.program.weights.clone();
    let weight = |name: &Name| {
        let tensor = checkpoint.tensor(name)?;
        let dtype = types[name].dtype;
        Ok(compiler::fold::Array::new(
            dtype,
            tensor.shape,
            tensor.bytes,
        ))
    };
    let io = |source| Error::Io {
        path: folder.into(),
        source,
    };
    let staged = Staged::new(folder).map_err(io)?;
    let file = staged.file();
    compilation.write(&weight, &[], BufWriter::with_capacity(1 << 20, file), &told)?;
    checkpoint.release();
    let bytes = Bytes::of_file("the observed model", file)?;
    Ok(Model::from_bytes(bytes.in_place())?)
}

/// Moments of every call that are not in the store yet.
fn watch(
    observed: &Observed,
    sites: &[Site],
    numbers: &[usize],
    model: &Arc<Model>,
    text: &Text,
    store: &Store,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let mut walk = Walk::new(observed, model, &text.seen, Select::Last)?;
    let steps = walk.steps.len();
    let mut kept: Vec<Kept> = vec![Kept::new(); steps];
    let missing = |c: &usize| sites.iter().any(|s| s.call == *c) && !store.has(*c);
    let Some(last) = (0..observed.calls.len()).rev().find(missing) else {
        return Ok(());
    };
    for (c, at) in observed.calls.iter().enumerate().take(last + 1) {
        let own: Vec<usize> = (0..sites.len()).filter(|s| sites[*s].call == c).collect();
        let own = if store.has(c) { vec![] } else { own };
        let mut sums: BTreeMap<usize, (&Operand, Sums)> = BTreeMap::new();
        for s in &own {
            let k = sites[*s].shape[1];
            let new = || (&observed.inputs[*s], Sums::new(k));
            sums.entry(numbers[*s]).or_insert_with(new);
        }
        for (step, kept) in kept.iter_mut().enumerate() {
            progress("calibrating", c * steps + step, (last + 1) * steps);
            let results = walk.run(step, *at, kept)?;
            for (input, sums) in sums.values_mut() {
                let Operand::Result { call, output } = input else {
                    return Err(Error::NoRows(format!("{input}")));
                };
                let rows = match call == at {
                    true => results.get(output),
                    false => kept.get(&(*call, *output)),
                };
                sums.add(rows.ok_or_else(|| Error::NoRows(format!("{input}")))?);
            }
            walk.keep(kept, *at, results);
            let next = observed.calls.get(c + 1).copied();
            walk.forget(kept, next.unwrap_or(usize::MAX));
        }
        if !own.is_empty() {
            let moments: Vec<Moments> = sums.into_values().map(|(_, s)| s.moments()).collect();
            store.write(c, &moments)?;
        }
    }
    Ok(())
}

/// Sensitivities of every site that are not known yet, on as many tokens as take about a quarter as long as the pass before: what
/// comes before a site is not run again.
fn probe(
    observed: &Observed,
    sites: &[Site],
    model: &Arc<Model>,
    text: &Text,
    store: &Store,
    mut known: BTreeMap<usize, Sensitivity>,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let output = observed.program.outputs.get("logits");
    let Some(Operand::Result { call: end, output }) = output else {
        return Err(Error::NoLogits);
    };
    let probes = observed.probes.iter().flatten().count().max(1);
    let all: usize = text.seen.iter().map(Vec::len).sum();
    let (mut taken, wanted) = (0, (all / probes / 2).max(PROBED));
    let every = (all / wanted).max(1);
    let chosen = text.seen.iter().step_by(every).take_while(|s| {
        let take = taken < PROBED || taken + s.len() <= wanted;
        taken += s.len();
        take
    });
    let chosen: Vec<Vec<u32>> = chosen.cloned().collect();
    let mut walk = Walk::new(observed, model, &chosen, Select::All)?;
    // What every layer hands on, and the logits, of the model as it is.
    let mut kept: Vec<Kept> = vec![Kept::new(); walk.steps.len()];
    let mut logits: Vec<Vec<f32>> = vec![];
    for (step, kept) in kept.iter_mut().enumerate() {
        for at in &observed.calls {
            let mut results = walk.run(step, *at, kept)?;
            if at == end {
                logits.push(results.remove(output).ok_or(Error::NoLogits)?);
            }
            walk.keep(kept, *at, results);
        }
    }
    let ty = observed.program.ty(&Operand::Result {
        call: *end,
        output: *output,
    });
    let width = ty.and_then(|t| t.last().size()).unwrap_or(1);
    for (s, probe) in observed.probes.iter().enumerate() {
        progress("sensitivities", s, observed.probes.len());
        let Some(probe) = probe.filter(|_| !known.contains_key(&s)) else {
            continue;
        };
        let first = sites[s].call;
        let mut divergences = vec![];
        for (step, kept) in kept.iter().enumerate() {
            let mut moved = kept.clone();
            let mut results = walk.run(step, probe, &moved)?;
            for at in &observed.calls[first..] {
                if *at != observed.calls[first] {
                    results = walk.run(step, *at, &moved)?;
                }
                if at == end {
                    let found = results.get(output).ok_or(Error::NoLogits)?;
                    divergences.extend(kl_of_rows(&logits[step], found, width));
                }
                walk.keep(&mut moved, *at, std::mem::take(&mut results));
            }
        }
        known.insert(s, sensitivity(&divergences));
        // Of a call at a time: a file a site would be many.
        if observed.probes.len() == s + 1 || sites[s + 1].call != first {
            store.write_sensitivities(&known)?;
        }
    }
    store.write_sensitivities(&known)
}

/// Mean and its standard error.
fn sensitivity(divergences: &[f64]) -> Sensitivity {
    let n = divergences.len().max(1) as f64;
    let kl = divergences.iter().sum::<f64>() / n;
    let spread: f64 = divergences.iter().map(|d| (d - kl).powi(2)).sum();
    Sensitivity {
        kl,
        error: (spread / n / n).sqrt(),
    }
}
