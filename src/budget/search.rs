//! Looks for the plan: the knapsack proposes, measurement disposes. Errors of weights do not quite add up, nor do times, so
//! the limit given to the knapsack is moved until what is measured keeps the budget.

use super::{Budget, Error, Plan, Quality, Trial, Workshop, trial::Trials, workshop::unchanged};
use crate::calibrate::Progress;
use compiler::plan::knapsack::{Side, solve};
use ir::Task;
use std::time::{Duration, Instant};

/// Times that the limit is moved.
const ROUNDS: usize = 4;

/// Below this much of the budget a plan has room for another one.
const CLOSE: f64 = 0.9;

/// What a search found, and what its time was spent on.
#[derive(Clone, Debug)]
pub struct Found {
    /// The best first: that keeps the budget.
    pub trials: Vec<Trial>,
    /// Plans that were compiled and compared; others were known from searches before.
    pub measured: usize,
    /// Time spent on them.
    pub measuring: Duration,
    /// All other time: choosing.
    pub solving: Duration,
}

/// The plan that keeps the budget, with all that were compared on the way, the best first. What earlier searches measured
/// is not measured again, and where one of their plans uses most of the budget, nothing is; but for a budget of time, of
/// which yesterday's measurements say little.
///
/// # Errors
/// No plan keeps it (says what is reachable), or it means nothing for this model.
pub fn search(workshop: &Workshop, budget: Budget, progress: Progress<'_>) -> Result<Found, Error> {
    let start = Instant::now();
    let mut scales = Scales {
        known: Trials::open(workshop)?,
        workshop,
        anew: matches!(budget, Budget::Latency(_)),
        measured: 0,
        time: Duration::ZERO,
    };
    let trials = compare(workshop, budget, &mut scales, progress)?;
    Ok(Found {
        trials,
        measured: scales.measured,
        measuring: scales.time,
        solving: start.elapsed().saturating_sub(scales.time),
    })
}

/// What plans are measured by.
struct Scales<'a> {
    workshop: &'a Workshop,
    known: Trials<'a>,
    /// Whether what is known does not count.
    anew: bool,
    measured: usize,
    time: Duration,
}

impl Scales<'_> {
    fn of(&mut self, plans: &[Plan], progress: Progress<'_>) -> Result<Vec<Trial>, Error> {
        let (start, before) = (Instant::now(), self.known.known().len());
        let found = match self.anew {
            true => self.workshop.measure(plans, progress),
            false => self.known.of(plans, progress),
        };
        self.measured += match self.anew {
            true => plans.len(),
            false => self.known.known().len() - before,
        };
        self.time += start.elapsed();
        found
    }
}

fn compare(
    workshop: &Workshop,
    budget: Budget,
    scales: &mut Scales,
    progress: Progress<'_>,
) -> Result<Vec<Trial>, Error> {
    meaningful(workshop, budget)?;
    let (kept, least) = match budget {
        Budget::Latency(_) => (Side::Time, Side::Error),
        Budget::Bytes(_) => (Side::Bytes, Side::Error),
        _ => (Side::Error, Side::Time),
    };
    let costs = workshop.costs();
    let propose = |limit: f64| solve(&costs, kept, limit, least).map(|c| workshop.plan(&c));
    let start = allowed(budget);
    // What a step and a file have beside products is the same in every plan.
    let mut limit = match kept {
        Side::Time => workshop.products(start),
        Side::Bytes => start - (workshop.original.bytes as f64 - unchanged(workshop).bytes),
        Side::Error => start,
    };
    let (mut low, mut high) = (0.0, f64::INFINITY);
    let mut trials: Vec<Trial> = vec![];
    let close = |trials: &[Trial]| {
        let mut serve = trials.iter().filter(|t| serves(budget, t));
        serve.any(|t| used(budget, t) > CLOSE)
    };
    let known = scales.known.known();
    if !scales.anew && close(&known) {
        return rank(budget, known, workshop);
    }
    for round in 0..ROUNDS {
        let limits: Vec<f64> = match (round, kept) {
            (0, Side::Error) => vec![limit / 2.0, limit, limit * 2.0],
            _ => vec![limit],
        };
        let mut plans: Vec<(f64, Plan)> = vec![];
        for limit in limits {
            let Some(plan) = propose(limit) else { continue };
            let known = trials
                .iter()
                .map(|t| &t.plan)
                .chain(plans.iter().map(|p| &p.1));
            if !known.into_iter().any(|k| *k == plan) {
                plans.push((limit, plan));
            }
        }
        if plans.is_empty() {
            break;
        }
        let proposed: Vec<Plan> = plans.iter().map(|p| p.1.clone()).collect();
        let found = scales.of(&proposed, progress)?;
        for ((limit, _), trial) in plans.iter().zip(&found) {
            match used(budget, trial) <= 1.0 {
                true => low = f64::max(low, *limit),
                false => high = f64::min(high, *limit),
            }
        }
        trials.extend(found);
        if close(&trials) {
            break;
        }
        let last = trials.last().map_or(1.0, |t| used(budget, t));
        let moved = match kept {
            Side::Error => plans.last().map_or(limit, |p| p.0) * 0.95 / last.max(1e-3),
            Side::Time => limit - workshop.products(start * last) + workshop.products(start * 0.97),
            Side::Bytes => limit - start * (last - 0.97),
        };
        limit = match (low > 0.0, high.is_finite()) {
            (true, true) if !(low..high).contains(&moved) => (low * high).sqrt(),
            _ => moved,
        };
    }
    if !trials.iter().any(|t| used(budget, t) <= 1.0) {
        let reverted = revert(workshop, budget, &trials, scales, progress)?;
        trials.extend(reverted);
    }
    if budget.wants_speed() && !trials.iter().any(|t| serves(budget, t)) {
        trials.extend(scales.of(&[vec![0; workshop.sites.len()]], progress)?);
    }
    rank(budget, trials, workshop)
}

/// Whether a plan is what a budget is for: of one of quality, that it is faster than the model as it is, which is a plan, too.
fn pays(budget: Budget, trial: &Trial) -> bool {
    let changes = trial.plan.iter().any(|o| *o > 0);
    !budget.wants_speed() || !changes || trial.latency < trial.original
}

/// Whether a plan keeps a budget, and is what it is for: see [`pays`].
fn serves(budget: Budget, trial: &Trial) -> bool {
    used(budget, trial) <= 1.0 && pays(budget, trial)
}

/// What the budget allows, in the units of the knapsack's side.
fn allowed(budget: Budget) -> f64 {
    match budget {
        Budget::Kl(x) => x,
        // Of a model that predicts as well as it believes, the loss rises by the divergence.
        Budget::Perplexity(share) => share.ln_1p(),
        // Half a point of F1 is lost about where taggers diverge by a hundredth.
        Budget::F1(points) => points / 50.0,
        Budget::Latency(seconds) => seconds,
        Budget::Bytes(bytes) => bytes as f64,
    }
}

/// How much of the budget a plan uses: at most 1 where it keeps it. Of divergence and loss the upper end of the interval
/// counts, so that the budget also holds on other text; of F1 the average, since intervals of small samples are wide.
pub fn used(budget: Budget, trial: &Trial) -> f64 {
    let Quality { kl, loss, f1, .. } = trial.quality;
    match budget {
        Budget::Kl(x) => kl.upper() / x,
        Budget::Perplexity(share) => loss.map_or(f64::INFINITY, |l| l.upper()) / share.ln_1p(),
        Budget::F1(points) => f1.map_or(f64::INFINITY, |f| f.mean) / points,
        Budget::Latency(seconds) => trial.latency / seconds,
        Budget::Bytes(bytes) => trial.bytes as f64 / bytes as f64,
    }
}

fn meaningful(workshop: &Workshop, budget: Budget) -> Result<(), Error> {
    let task = &workshop.description.task;
    let why = match (budget, task) {
        (Budget::Perplexity(_), Task::CausalLm) => return Ok(()),
        (Budget::Perplexity(_), _) => "perplexity is of decoders; give kl= or f1=",
        (Budget::F1(_), Task::TokenClassification { .. }) => return Ok(()),
        (Budget::F1(_), _) => "F1 is of token classifiers; give kl=",
        _ => return Ok(()),
    };
    Err(Error::Meaningless {
        budget,
        why: why.into(),
    })
}

/// Takes back the worst offenders of the plan that is nearest to the budget, half of the predicted error at a time, until
/// what is measured keeps it; a plan that changes nothing is the last resort.
fn revert(
    workshop: &Workshop,
    budget: Budget,
    trials: &[Trial],
    scales: &mut Scales,
    progress: Progress<'_>,
) -> Result<Vec<Trial>, Error> {
    if !budget.wants_speed() {
        return Ok(vec![]);
    }
    let nearest = trials
        .iter()
        .min_by(|a, b| used(budget, a).total_cmp(&used(budget, b)));
    let Some(mut plan) = nearest.map(|t| t.plan.clone()) else {
        return Ok(vec![]);
    };
    let mut out = vec![];
    while plan.iter().any(|o| *o > 0) {
        let kl = |s: usize, plan: &Plan| workshop.offers[s][plan[s]].kl;
        let total: f64 = (0..plan.len()).map(|s| kl(s, &plan)).sum();
        let mut left = total;
        let mut order: Vec<usize> = (0..plan.len()).filter(|s| plan[*s] > 0).collect();
        order.sort_by(|a, b| kl(*b, &plan).total_cmp(&kl(*a, &plan)));
        for s in order {
            if left < total / 2.0 {
                break;
            }
            left -= kl(s, &plan);
            plan[s] = 0;
        }
        let found = scales.of(std::slice::from_ref(&plan), progress)?;
        let done = found.iter().any(|t| used(budget, t) <= 1.0);
        out.extend(found);
        if done {
            break;
        }
    }
    Ok(out)
}

/// The best first: of those that keep a budget of quality the fastest, if it is faster than the model as it is; of those that
/// keep one of means the most exact.
fn sort(budget: Budget, trials: &mut [Trial]) {
    let merit = |t: &Trial| match budget.wants_speed() {
        // Measured times of plans that differ little are noise; predictions are not.
        true => t.predicted.time,
        false => t.quality.kl.mean,
    };
    trials.sort_by(|a, b| {
        let fails = |t: &Trial| used(budget, t) > 1.0;
        let order = fails(a).cmp(&fails(b));
        let order = order.then(pays(budget, b).cmp(&pays(budget, a)));
        order.then(merit(a).total_cmp(&merit(b)))
    });
}

/// See [`sort`].
///
/// # Errors
/// None keeps the budget.
fn rank(budget: Budget, mut trials: Vec<Trial>, workshop: &Workshop) -> Result<Vec<Trial>, Error> {
    sort(budget, &mut trials);
    match trials.first() {
        Some(best) if used(budget, best) <= 1.0 => Ok(trials),
        _ => Err(Error::Unreachable {
            budget,
            reachable: reachable(budget, &trials, workshop),
        }),
    }
}

fn reachable(budget: Budget, trials: &[Trial], workshop: &Workshop) -> String {
    let costs = workshop.costs();
    let side = match budget {
        Budget::Bytes(_) => Side::Bytes,
        _ => Side::Time,
    };
    let least: f64 = costs
        .iter()
        .map(|g| g.iter().map(|c| c.side(side)).fold(f64::INFINITY, f64::min))
        .sum();
    let base = unchanged(workshop);
    let nearest = trials
        .iter()
        .min_by(|a, b| used(budget, a).total_cmp(&used(budget, b)));
    let measured = nearest.map_or(String::new(), |t| {
        format!(
            " (measured: {:.3} ms, {:.1} MB, a divergence of {:.4})",
            t.latency * 1e3,
            t.bytes as f64 / 1e6,
            t.quality.kl.mean
        )
    });
    match budget {
        Budget::Latency(_) => {
            let seconds = workshop.step(least, workshop.pace.seconds);
            format!("about latency={:.3}ms{measured}", seconds * 1e3)
        }
        Budget::Bytes(_) => {
            let bytes = workshop.original.bytes as f64 - base.bytes + least;
            format!("about bytes={:.1}MB{measured}", bytes / 1e6)
        }
        _ => format!("the model as it is, without any loss{measured}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::quality::Estimate;
    use compiler::plan::knapsack::Cost;

    /// A plan of one weight, as it is or not, that diverges by `kl` and takes `latency` where the original takes 1.
    fn trial(offer: usize, predicted: f64, kl: f64, latency: f64) -> Trial {
        let mean = |mean| Estimate { mean, half: 0.0 };
        Trial {
            plan: vec![offer],
            predicted: Cost {
                time: predicted,
                ..Cost::default()
            },
            quality: Quality {
                kl: mean(kl),
                ..Quality::default()
            },
            latency,
            original: 1.0,
            bytes: 1,
        }
    }

    #[test]
    fn a_plan_slower_than_the_original_never_wins() {
        let original = trial(0, 1.0, 0.0, 1.01);
        let (fast, slow) = (trial(1, 0.7, 0.009, 0.8), trial(2, 0.5, 0.001, 1.2));
        let wrong = trial(3, 0.1, 0.1, 0.3);
        let check = |budget: &str, trials: &[&Trial], best: &Trial| {
            let budget = budget.parse().expect("a budget");
            let mut trials: Vec<Trial> = trials.iter().copied().cloned().collect();
            sort(budget, &mut trials);
            assert_eq!(trials[0].plan, best.plan, "{budget}");
        };
        check("kl=0.01", &[&slow, &wrong, &original], &original);
        check("kl=0.01", &[&slow, &wrong, &original, &fast], &fast);
        // Of a budget of means no time counts but its own.
        check("latency=2s", &[&fast, &slow], &slow);
        check("latency=1s", &[&fast, &slow], &fast);
    }
}
