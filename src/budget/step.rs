//! How long a step takes: of models in turns, and of a model as it is, which is measured once on a machine and remembered.
//! Knows no plans.

use super::{Build, Error, costs};
use crate::measure::speed::{Encoding, Generation, Workload};
use ir::{Description, Task};
use runtime::{Model, Session};
use serde::{Deserialize, Serialize};
use std::{path::Path, sync::Arc, time::Duration};

/// Turns that models take while they are timed; an odd number.
const TURNS: usize = 5;

/// Time of a turn.
const TURN: Duration = Duration::from_millis(200);

/// What is said of plans relative to the model as it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Seconds of a step.
    pub seconds: f64,
    /// The share of them that is not in products with weights.
    pub rest: f64,
}

impl Pace {
    /// Of an artifact on this machine; a file in `folder` remembers it.
    ///
    /// # Errors
    /// It does not run; the file is there and cannot be read.
    pub fn of(build: &Build, folder: Option<&Path>) -> Result<Pace, Error> {
        let mut known = costs::of_machine(folder, "paces")?;
        let key = blake3::Hash::from_bytes(build.digest).to_hex().to_string();
        if let Some(pace) = known.known().get(&key) {
            return Ok(*pace);
        }
        let [seconds] = time([&build.model])?;
        let rest = rest(&build.model)?;
        let pace = Pace { seconds, rest };
        // A folder that cannot be written to costs time at the next start, and nothing else.
        let _ = known.extend(vec![(key, pace)]);
        Ok(pace)
    }
}

/// What a step is: a token of a decoder that continues a prompt, 128 tokens of an encoder.
fn workload(description: &Description) -> Workload {
    let half = description.context / 2;
    match description.task {
        Task::CausalLm => Workload::Generation(Generation {
            depth: 0,
            prompt: 32.min(half).max(1),
            generate: 64.min(half).max(1),
            sequences: 1,
        }),
        _ => Workload::Encoding(Encoding {
            lengths: vec![128.min(description.context)],
        }),
    }
}

/// Seconds of a step of each model, in turns, so that what else happens on the machine happens to all: medians.
///
/// # Errors
/// One of them does not run.
pub fn time<const N: usize>(models: [&Arc<Model>; N]) -> Result<[f64; N], Error> {
    let work = workload(models[0].description());
    let sessions = models.iter().map(|m| work.session(m, None));
    let mut sessions: Vec<Session> = sessions.collect::<Result<_, _>>()?;
    let mut times = vec![vec![]; N];
    for _ in 0..TURNS {
        for (session, times) in sessions.iter_mut().zip(&mut times) {
            times.push(work.measure(session, TURN)?.step().1);
        }
    }
    Ok(std::array::from_fn(|i| {
        times[i].sort_by(f64::total_cmp);
        times[i][TURNS / 2]
    }))
}

/// The share of a step's time that is not in products with weights.
fn rest(model: &Arc<Model>) -> Result<f64, Error> {
    let work = workload(model.description());
    let steps = work.launches(&mut work.session(model, None)?)?;
    let launches = steps.last().map_or(&[][..], |(_, launches)| launches);
    let seconds = |products: bool| -> f64 {
        let of = launches.iter();
        let of = of.filter(|(name, _)| name.contains("gemm") == products);
        of.map(|(_, time)| time.as_secs_f64()).sum()
    };
    let (products, rest) = (seconds(true), seconds(false));
    Ok(rest / (products + rest).max(f64::MIN_POSITIVE))
}
