//! Whole plans from the model as it is to the fastest one, each measured: what divergence buys, and how far predictions
//! are off. Uniform plans stand beside as points of reference. Draws nothing.

use super::{Certificate, Error, Estimate, Plan, Row, SEED, Trial, Workshop, draw::Draw};
use crate::{calibrate::Progress, measure::roofline};
use compiler::{
    compress::Form,
    plan::knapsack::{Side, solve},
};
use ir::{DType, Element, Task};
use runtime::pool::{Pool, default_threads};
use serde::{Deserialize, Serialize};

/// Plans that are compared side by side: each is in memory then.
const BATCH: usize = 4;

/// Where a plan comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The model as it is.
    Original,
    /// One form for all weights.
    Uniform,
    /// The knapsack's.
    Mixed,
    /// Drawn.
    Random,
}

/// A plan that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// For people.
    pub name: String,
    /// See there.
    pub kind: Kind,
    /// Seconds of a step, measured, at the pace at which the original was measured first.
    pub latency: f64,
    /// Seconds of a step, predicted.
    pub predicted_latency: f64,
    /// Divergence from the original, measured.
    pub kl: Estimate,
    /// Divergence, predicted.
    pub predicted_kl: f64,
    /// Bytes of the artifact.
    pub bytes: u64,
    /// Bytes of weights that a step's products read.
    pub read: u64,
    /// The form of each weight, in the order of the rows.
    pub forms: Vec<String>,
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// What a step is: `one token`, `128 tokens`.
    pub step: String,
    /// Bytes that this machine reads in a second.
    pub read_per_second: f64,
    /// Spearman's rank correlation of predicted and measured divergence over all plans but the original.
    pub rank_correlation: Option<f64>,
    /// By rising measured time.
    pub points: Vec<Point>,
    /// The weights, as they are.
    pub weights: Vec<Row>,
}

impl Survey {
    /// Measures about `plans` mixed plans, `random` ones, and the uniform ones.
    ///
    /// # Errors
    /// A plan that does not compile or run.
    pub fn of(
        workshop: &Workshop,
        plans: usize,
        random: usize,
        progress: Progress<'_>,
    ) -> Result<Survey, Error> {
        let mut wanted: Vec<(String, Kind, Plan)> = vec![(
            "original".into(),
            Kind::Original,
            vec![0; workshop.sites.len()],
        )];
        let mut add = |name: String, kind: Kind, plan: Plan| {
            if !wanted.iter().any(|w| w.2 == plan) {
                wanted.push((name, kind, plan));
            }
        };
        for (name, plan) in uniform(workshop) {
            add(name, Kind::Uniform, plan);
        }
        let costs = workshop.costs();
        let fastest = solve(&costs, Side::Error, f64::MAX / 2.0, Side::Time);
        let most = fastest.map_or(1.0, |c| workshop.predict(&workshop.plan(&c)).error);
        for i in 0..plans {
            // From the fastest down to a thousandth of its divergence.
            let limit = most * 1e-3f64.powf(i as f64 / (plans - 1).max(1) as f64);
            if let Some(choice) = solve(&costs, Side::Error, limit, Side::Time) {
                let plan = workshop.plan(&choice);
                let predicted = workshop.predict(&plan).error;
                add(format!("kl~{predicted:.1e}"), Kind::Mixed, plan);
            }
        }
        let mut draw = Draw(SEED);
        for i in 0..random {
            // Plans that use all options, and ones that use the exact few.
            let percent = draw.below(95) + 6;
            let choice = costs
                .iter()
                .map(|options| draw.below((options.len() * percent).div_ceil(100)));
            let choice: Vec<usize> = choice.collect();
            add(
                format!("random {}", i + 1),
                Kind::Random,
                workshop.plan(&choice),
            );
        }
        let mut points: Vec<Point> = vec![];
        let mut first = None;
        for (i, batch) in wanted.chunks(BATCH).enumerate() {
            progress("plans", i * BATCH, wanted.len());
            let plans: Vec<Plan> = batch.iter().map(|w| w.2.clone()).collect();
            let trials = workshop.measure(&plans, &|_, _, _| {})?;
            for ((name, kind, _), trial) in batch.iter().zip(trials) {
                let original = *first.get_or_insert(trial.original);
                points.push(point(workshop, name.clone(), *kind, &trial, original));
            }
        }
        points.sort_by(|a, b| a.latency.total_cmp(&b.latency));
        let changed = points.iter().filter(|p| p.kind != Kind::Original);
        let pairs: Vec<(f64, f64)> = changed.map(|p| (p.predicted_kl, p.kl.mean)).collect();
        // The original's own weights, where they lie: they are the model's only memory of that size.
        let weights = workshop.original.model.weights().unwrap_or_default();
        let read = roofline::read(&Pool::new(default_threads()), weights);
        let unchanged = vec![0; workshop.sites.len()];
        Ok(Survey {
            step: match workshop.description.task {
                Task::CausalLm => "one token".into(),
                _ => format!("{} tokens", 128.min(workshop.description.context)),
            },
            read_per_second: read,
            rank_correlation: spearman(&pairs),
            weights: Certificate::rows_of(workshop, &unchanged),
            points,
        })
    }
}

/// Plans with one form for all weights: rounded to nearest, and with errors fed forward, met by rows of f32 and of 8 bits;
/// those of few bits also with 8 in the last weight, which gives logits. Weights that are stored in f32 also as bf16.
fn uniform(workshop: &Workshop) -> Vec<(String, Plan)> {
    let mut out = vec![];
    let find = |s: usize, method: &str, form: &Form| {
        let mut offers = workshop.offers[s].iter();
        offers.position(|o| o.alternative.method == method && o.alternative.form == *form)
    };
    let floats = Form::Float(DType::BF16);
    let bf16: Option<Plan> = (0..workshop.sites.len())
        .map(|s| find(s, "nearest", &floats))
        .collect();
    out.extend(bf16.map(|plan| (format!("nearest {floats}"), plan)));
    for (method, element, group) in [
        ("nearest", Element::Q8, 64),
        ("dynamic", Element::Q8, 64),
        ("dynamic", Element::Q7, 64),
        ("nearest", Element::Q4, 32),
        ("gptq", Element::Q4, 32),
        ("gptq", Element::Q4, 64),
        ("gptq", Element::U4, 32),
        ("dynamic", Element::Q4, 32),
        ("dynamic", Element::Q4, 64),
        ("gptq", Element::Q3, 32),
        ("gptq", Element::U3, 32),
        ("dynamic", Element::Q3, 32),
    ] {
        let said = |element, group| match method {
            "dynamic" => Form::Dynamic(Box::new(Form::grouped(element, group))),
            _ => Form::grouped(element, group),
        };
        let form = said(element, group);
        let all = 0..workshop.sites.len();
        let all: Option<Plan> = all.map(|s| find(s, method, &form)).collect();
        let Some(plan) = all else { continue };
        let name = format!("{method} {element}/{group}");
        let last = plan.len() - 1;
        let head = ["dynamic", "nearest"]
            .into_iter()
            .find_map(|m| find(last, m, &said(Element::Q8, group)));
        if let Some(head) = head.filter(|_| element.bits() <= 4) {
            let mut plan = plan.clone();
            plan[last] = head;
            out.push((format!("{name}, last q8"), plan));
        }
        out.push((name, plan));
    }
    out
}

/// Plans are measured minutes apart, each in turns with the original: that tells how fast the machine was, beside the seconds
/// that the original took at first.
fn point(workshop: &Workshop, name: String, kind: Kind, trial: &Trial, original: f64) -> Point {
    let certificate = Certificate::new(workshop, None, trial);
    Point {
        name,
        kind,
        latency: original * trial.latency / trial.original,
        predicted_latency: workshop.step(trial.predicted.time, original),
        kl: trial.quality.kl,
        predicted_kl: trial.predicted.error,
        bytes: trial.bytes,
        read: certificate.rows.iter().map(|r| r.bytes).sum(),
        forms: certificate.rows.into_iter().map(|r| r.form).collect(),
    }
}

/// Correlation of ranks; equal values share the average of their ranks. `None` of fewer than three pairs.
fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let ranks = |values: Vec<f64>| -> Vec<f64> {
        let rank = |x: &f64| {
            let less = values.iter().filter(|y| *y < x).count() as f64;
            let equal = values.iter().filter(|y| *y == x).count() as f64;
            less + (equal - 1.0) / 2.0
        };
        values.iter().map(rank).collect()
    };
    let a = ranks(pairs.iter().map(|p| p.0).collect());
    let b = ranks(pairs.iter().map(|p| p.1).collect());
    let mean = (pairs.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| product(&a, &b) / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_correlations_by_hand() {
        let check = |pairs: &[(f64, f64)], expected: Option<f64>| {
            let found = spearman(pairs);
            let near = found
                .zip(expected)
                .is_some_and(|(a, b)| (a - b).abs() < 1e-12);
            assert!(near || found == expected, "{pairs:?}: {found:?}");
        };
        check(&[(1.0, 10.0), (2.0, 100.0), (3.0, 1000.0)], Some(1.0));
        check(&[(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], Some(-1.0));
        check(&[(1.0, 1.0), (2.0, 3.0), (3.0, 2.0)], Some(0.5));
        check(&[(1.0, 1.0), (2.0, 3.0)], None);
        check(&[(1.0, 5.0), (2.0, 5.0), (3.0, 5.0)], None);
    }
}
