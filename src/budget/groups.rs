//! Weights that multiply the same rows are chosen together: in one form they become one kernel. A group's options are the
//! combinations of its weights' offers that no other combination beats. Knows predictions; measures nothing.

use super::{Latency, Offer};
use compiler::{
    compress::Site,
    plan::knapsack::{Cost, pareto},
};

/// Seconds that a kernel more costs: a barrier of its threads.
const BOUNDARY: f64 = 2e-6;

/// Most options of a group: the knapsack's work is their number, and finer ones differ by less than predictions err.
const MOST: usize = 64;

/// Weights chosen together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Indices of the sites.
    pub sites: Vec<usize>,
    /// For each option, the offer of each site.
    pub options: Vec<Vec<usize>>,
    /// What each option costs.
    pub costs: Vec<Cost>,
}

/// The groups of a model, in the order of their first sites.
pub fn groups(sites: &[Site], offers: &[Vec<Offer>], latency: &Latency) -> Vec<Group> {
    let mut out: Vec<Group> = vec![];
    for (s, site) in sites.iter().enumerate() {
        let shares = |g: &&mut Group| {
            let first = &sites[g.sites[0]];
            first.call == site.call && first.inputs[0] == site.inputs[0]
        };
        match out.iter_mut().find(shares) {
            Some(group) => group.sites.push(s),
            None => out.push(Group {
                sites: vec![s],
                options: vec![],
                costs: vec![],
            }),
        }
    }
    for group in &mut out {
        let mut options: Vec<Vec<usize>> = vec![vec![]];
        let mut costs = vec![Cost::default()];
        for s in group.sites.iter().copied() {
            let site = &sites[s];
            let own: Vec<Cost> = offers[s]
                .iter()
                .map(|o| Cost {
                    time: latency.seconds(&o.alternative.form, site.shape, site.stored),
                    bytes: o.alternative.bytes as f64,
                    error: o.kl,
                })
                .collect();
            let useful = pareto(&own);
            let (mut next, mut next_costs) = (vec![], vec![]);
            for (option, cost) in options.iter().zip(&costs) {
                for o in &useful {
                    let form = |site: usize, o: usize| &offers[site][o].alternative.form;
                    let mut before = option.iter().zip(&group.sites);
                    let seen = before.any(|(p, t)| form(*t, *p) == form(s, *o));
                    let mut cost = cost.and(own[*o]);
                    // One kernel less than it is one by one, where an earlier weight has the same form.
                    if seen {
                        cost.time -= BOUNDARY.min(own[*o].time);
                    }
                    next.push([&option[..], &[*o]].concat());
                    next_costs.push(cost);
                }
            }
            let mut best = pareto(&next_costs);
            if best.len() > MOST {
                // The most exact and the fastest stay.
                best = (0..MOST)
                    .map(|i| best[i * (best.len() - 1) / (MOST - 1)])
                    .collect();
            }
            options = best.iter().map(|i| next[*i].clone()).collect();
            costs = best.iter().map(|i| next_costs[*i]).collect();
        }
        (group.options, group.costs) = (options, costs);
    }
    out
}
