//! What a cost model predicts of a step, beside what the step takes: the whole, and the launches of each template.

use super::{
    Error, Step,
    latency::Latency,
    speed::{Encoding, Generation, Workload},
};
use compiler::predict::{self, Costs};
use ir::{Description, Task, artifact::Manifest};
use runtime::Model;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Time that a whole step is measured for.
const BUDGET: Duration = Duration::from_secs(1);

/// Most runs launch by launch, of which the median counts; fewer where they take long.
const RUNS: usize = 5;

/// Seconds predicted, and measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// By the cost model.
    pub predicted: f64,
    /// Here; of a template, launch by launch.
    pub measured: f64,
    /// How many.
    pub launches: usize,
}

impl Times {
    /// Above 1 where the cost model is pessimistic.
    pub fn ratio(&self) -> f64 {
        self.predicted / self.measured.max(f64::MIN_POSITIVE)
    }
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// What ran.
    pub step: Step,
    /// A step as a whole; in it launches follow each other faster than when each is timed.
    pub whole: Times,
    /// Its launches by template.
    pub templates: BTreeMap<&'static str, Times>,
}

/// What a model is judged by: of a decoder a token after 128 others and a prompt of 128; a sequence of 128 of an encoder.
pub fn workloads(description: &Description) -> Vec<Workload> {
    let length = 128.min(description.context);
    if description.task != Task::CausalLm {
        let lengths = vec![length];
        return vec![Workload::Encoding(Encoding { lengths })];
    }
    let room = description.context - length + 1;
    let generation = |generate: usize| {
        Workload::Generation(Generation {
            depth: 0,
            prompt: length,
            generate: generate.min(room),
            sequences: 1,
        })
    };
    vec![generation(16), generation(1)]
}

/// Seconds that a step is predicted to take.
pub fn predict(manifest: &Manifest, costs: &Costs, step: Step) -> f64 {
    let launches = costs.launches(manifest, sizes(step));
    launches.iter().map(|ps| *ps as f64 * 1e-12).sum()
}

fn sizes(step: Step) -> predict::Step {
    predict::Step {
        tokens: step.tokens,
        selected: step.selected,
        sequences: step.sequences,
        keys: step.keys.round() as usize,
    }
}

/// Runs a workload and holds it against what is predicted.
///
/// # Errors
/// As [`Workload::measure`].
pub fn measure(
    model: &Arc<Model>,
    costs: &Costs,
    workload: &Workload,
    threads: Option<usize>,
) -> Result<Prediction, Error> {
    let mut session = workload.session(model, threads)?;
    let (step, measured) = workload.measure(&mut session, BUDGET)?.step();
    let manifest = model.manifest();
    let predicted = costs.launches(manifest, sizes(step));
    let mut timed: Vec<Vec<Duration>> = vec![vec![]; predicted.len()];
    let start = Instant::now();
    for run in 0..RUNS {
        if run > 0 && start.elapsed() > BUDGET {
            break;
        }
        // Predicted is the last kind of step.
        let steps = workload.launches(&mut session)?;
        let launches = steps.into_iter().next_back();
        let times = launches.into_iter().flat_map(|(_, launches)| launches);
        let times = times.map(|(_, time)| time);
        timed.iter_mut().zip(times).for_each(|(all, t)| all.push(t));
    }
    let mut templates: BTreeMap<&'static str, Times> = BTreeMap::new();
    let plan = &manifest.plan;
    for ((launch, ps), times) in plan.launches.iter().zip(&predicted).zip(timed) {
        let work = plan.work.get(launch.kernel as usize);
        let template = work.map_or("unknown", |work| work.template());
        let sum = templates.entry(template).or_default();
        sum.predicted += *ps as f64 * 1e-12;
        sum.measured += Latency::new(times).map_or(0.0, |l| l.median());
        sum.launches += 1;
    }
    let whole = Times {
        predicted: predict(manifest, costs, step),
        measured,
        launches: plan.launches.len(),
    };
    Ok(Prediction {
        step,
        whole,
        templates,
    })
}
