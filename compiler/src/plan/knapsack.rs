//! The multiple-choice knapsack: one option of each item, so that a resource is kept and what is left is least. Solved by
//! dynamic programming over the resource in steps, which is exact but for the rounding of the steps (Dudzinski & Walukiewicz
//! 1987; SPDY, Frantar & Alistarh 2022, arXiv 2201.13096, for layer-wise compression). Knows neither weights nor machines.

/// What an option costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Seconds of a step.
    pub time: f64,
    /// Bytes in the artifact.
    pub bytes: f64,
    /// Divergence that it adds, in nats a token.
    pub error: f64,
}

/// One of an option's three sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// See [`Cost::time`].
    Time,
    /// See [`Cost::bytes`].
    Bytes,
    /// See [`Cost::error`].
    Error,
}

impl Cost {
    /// One of its sides.
    pub fn side(&self, side: Side) -> f64 {
        match side {
            Side::Time => self.time,
            Side::Bytes => self.bytes,
            Side::Error => self.error,
        }
    }

    /// The sum of two, side by side.
    #[must_use]
    pub fn and(self, o: Cost) -> Cost {
        Cost {
            time: self.time + o.time,
            bytes: self.bytes + o.bytes,
            error: self.error + o.error,
        }
    }

    fn at_most(&self, o: &Cost) -> bool {
        self.time <= o.time && self.bytes <= o.bytes && self.error <= o.error
    }
}

/// Indices of the options that no other one is at least as good as on every side, the first of equals, by rising error.
pub fn pareto(options: &[Cost]) -> Vec<usize> {
    let beaten = |i: usize| {
        options
            .iter()
            .enumerate()
            .any(|(j, o)| j != i && o.at_most(&options[i]) && (!options[i].at_most(o) || j < i))
    };
    let mut left: Vec<usize> = (0..options.len()).filter(|i| !beaten(*i)).collect();
    left.sort_by(|a, b| options[*a].error.total_cmp(&options[*b].error));
    left
}

/// Steps that the resource is cut into.
const STEPS: usize = 4096;

/// The option of each item for which the sum of `least` is least while the sum of `kept` is at most `limit`; `None` where
/// no choice keeps it. Ties go to what is less on the remaining side, then to the first.
pub fn solve(items: &[Vec<Cost>], kept: Side, limit: f64, least: Side) -> Option<Vec<usize>> {
    let smallest = |item: &Vec<Cost>| {
        let sides = item.iter().map(|o| o.side(kept));
        sides.fold(f64::INFINITY, f64::min)
    };
    // What every choice takes is taken off first, so that the steps are spent on what is chosen.
    let base: f64 = items.iter().map(smallest).sum();
    let room = limit - base;
    // A limit that is reached exactly must not fail by rounding.
    if items.iter().any(Vec::is_empty) || room < -1e-9 * limit.abs().max(1e-300) {
        return None;
    }
    let step = room.max(0.0) / STEPS as f64;
    let rest = [Side::Time, Side::Bytes, Side::Error];
    let rest = rest.into_iter().find(|s| ![kept, least].contains(s));
    let rest = rest.unwrap_or(least);
    let total = |side: Side| -> f64 {
        let most = |item: &Vec<Cost>| item.iter().map(|o| o.side(side)).fold(0.0, f64::max);
        items.iter().map(most).sum::<f64>().max(f64::MIN_POSITIVE)
    };
    let tie = 1e-6 * total(least) / total(rest);
    let mut best = vec![0.0; STEPS + 1];
    let mut chosen: Vec<Vec<u16>> = vec![];
    for item in items {
        let floor = smallest(item);
        let costs: Vec<(usize, f64)> = item
            .iter()
            .map(|o| {
                let over = o.side(kept) - floor;
                let steps = match over {
                    o if o <= 0.0 => 0,
                    _ if step == 0.0 => usize::MAX,
                    o => (o / step).ceil() as usize,
                };
                (steps, o.side(least) + tie * o.side(rest))
            })
            .collect();
        let mut next = vec![f64::INFINITY; STEPS + 1];
        let mut from = vec![u16::MAX; STEPS + 1];
        for (i, (steps, cost)) in costs.iter().enumerate() {
            for used in *steps..=STEPS {
                let sum = best[used - steps] + cost;
                if sum < next[used] {
                    next[used] = sum;
                    from[used] = i as u16;
                }
            }
        }
        best = next;
        chosen.push(from);
    }
    let mut used = STEPS;
    let mut choice = vec![0; items.len()];
    for (i, item) in items.iter().enumerate().rev() {
        let option = chosen[i][used] as usize;
        choice[i] = option;
        let over = item.get(option)?.side(kept) - smallest(item);
        if over > 0.0 {
            used -= (over / step).ceil() as usize;
        }
    }
    Some(choice)
}

/// The sum of what is chosen.
pub fn sum(items: &[Vec<Cost>], choice: &[usize]) -> Cost {
    let chosen = items.iter().zip(choice).map(|(item, i)| item[*i]);
    chosen.fold(Cost::default(), Cost::and)
}
