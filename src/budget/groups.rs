//! Weights that multiply the same rows are chosen together: in one form they become one kernel. A group's options are the
//! combinations of its weights' offers that no other combination beats. Knows predictions; measures nothing.

use super::{Latency, Offer, latency::wanted};
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
                    // And one rotation, where an earlier one has the same inputs.
                    let mut before = option.iter().zip(&group.sites);
                    let rotated = wanted(form(s, *o));
                    let mut alone = own[*o].time;
                    if rotated.is_some() && before.any(|(p, t)| wanted(form(*t, *p)) == rotated) {
                        let rotation = latency.rotation(form(s, *o), site.shape[1]).min(alone);
                        cost.time -= rotation;
                        alone -= rotation;
                    }
                    // One kernel less than it is one by one, where an earlier weight has the same form.
                    if seen {
                        cost.time -= BOUNDARY.min(alone);
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

#[cfg(test)]
mod tests {
    use super::*;
    use compiler::{
        compress::{Alternative, Form, sites},
        plan::knapsack::{Side, solve},
    };
    use ir::{Call, DType, Element, Graph, Operand, Program, Role, Type, ops::Linear};

    /// Weights `[n, k]` of the same inputs.
    fn program(weights: usize, [n, k]: [usize; 2]) -> Program {
        let mut g = Graph::new();
        let x = g.input("x", Role::Data, Type::new(DType::F32, [1, k]));
        let mut p = Program::default();
        p.inputs.insert("x".into(), g.ty(x).clone());
        let mut args = vec![Operand::Input("x".into())];
        for i in 0..weights {
            let name = format!("w{i}");
            let w = g.input(&*name, Role::Weight, Type::new(DType::F32, [n, k]));
            let y = g.add(Linear, &[x, w]).expect("types check");
            g.outputs.push(y);
            p.weights.insert(name.clone().into(), g.ty(w).clone());
            args.push(Operand::Weight(name.into()));
        }
        p.graph("g", g);
        p.calls.push(Call {
            graph: "g".into(),
            args,
            updates: vec![],
        });
        p
    }

    fn offer(form: Form, kl: f64, shape: [usize; 2]) -> Offer {
        let bytes = form.bytes(shape, DType::F32);
        let alternative = Alternative {
            method: "test".into(),
            form,
            bytes,
            error: kl,
        };
        Offer { alternative, kl }
    }

    #[test]
    fn rotations_are_chosen_where_they_gain_what_they_cost() {
        let shape = [1024, 1024];
        let sites = sites(&program(2, shape));
        let latency = Latency::default();
        let check = |plain: f64, rotated: f64, rotates: bool| {
            let four = || Form::grouped(Element::Q4, 32);
            let all = vec![
                offer(Form::Stored, 0.0, shape),
                offer(Form::grouped(Element::Q8, 32), 1e-4, shape),
                offer(four(), plain, shape),
                offer(four().rotated(64), rotated, shape),
            ];
            let offers = vec![all.clone(), all];
            let groups = groups(&sites, &offers, &latency);
            let costs: Vec<Vec<Cost>> = groups.iter().map(|g| g.costs.clone()).collect();
            let chosen = solve(&costs, Side::Error, 0.021, Side::Time).expect("a plan");
            let chosen = &groups[0].options[chosen[0]];
            let found = chosen.contains(&3);
            assert_eq!(found, rotates, "{plain} and {rotated}: {chosen:?}");
        };
        // Outliers: 4 bits are too few without a rotation.
        check(0.1, 0.01, true);
        // None: a rotation takes time and gains nothing.
        check(0.01, 0.009, false);
        check(0.01, 0.011, false);
    }

    #[test]
    fn weights_of_the_same_inputs_share_a_rotation() {
        let shape = [64, 1024];
        let sites = sites(&program(2, shape));
        let latency = Latency::default();
        let form = Form::grouped(Element::Q4, 32).rotated(64);
        let offers = vec![vec![offer(form.clone(), 0.1, shape)]; 2];
        let both = groups(&sites, &offers, &latency)[0].costs[0].time;
        let one = latency.seconds(&form, shape, DType::F32);
        let rotation = latency.rotation(&form, shape[1]);
        assert!(rotation > 0.0);
        assert!(both >= one, "{both} together, {one} alone");
        let kernel = BOUNDARY.min(one - rotation);
        let wanted = 2.0 * one - rotation - kernel;
        assert!((both - wanted).abs() < 1e-12, "{both}, not {wanted}");
    }
}
