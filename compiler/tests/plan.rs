//! Choosing under a budget: the knapsack against every choice there is, and observed programs against the programs they
//! are made of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::{
    checkpoint::Checkpoint,
    compress::sites,
    models,
    plan::{
        Observed,
        knapsack::{Cost, Side, pareto, solve, sum},
    },
};
use ir::Operand;
use proptest::prelude::*;
use std::path::Path;

fn cost((time, bytes, error): (u32, u32, u32)) -> Cost {
    Cost {
        time: time.into(),
        bytes: bytes.into(),
        error: error.into(),
    }
}

/// Every choice of one option an item.
fn choices(items: &[Vec<Cost>]) -> Vec<Vec<usize>> {
    items.iter().fold(vec![vec![]], |all, item| {
        let longer = |c: Vec<usize>| (0..item.len()).map(move |i| [&c[..], &[i]].concat());
        all.into_iter().flat_map(longer).collect()
    })
}

proptest! {
    #[test]
    fn the_knapsack_finds_the_best_choice(
        items in prop::collection::vec(prop::collection::vec((0u32..50, 0u32..50, 0u32..50), 1..5), 1..5),
        limit in 0u32..200,
    ) {
        let items: Vec<Vec<Cost>> = items.into_iter().map(|i| i.into_iter().map(cost).collect()).collect();
        for (kept, least) in [(Side::Error, Side::Time), (Side::Time, Side::Error), (Side::Bytes, Side::Error)] {
            let all = choices(&items);
            let allowed = all.iter().map(|c| sum(&items, c));
            let allowed = allowed.filter(|c| c.side(kept) <= f64::from(limit));
            let best = allowed.map(|c| c.side(least)).min_by(f64::total_cmp);
            let found = solve(&items, kept, limit.into(), least).map(|c| sum(&items, &c));
            prop_assert_eq!(found.is_some(), best.is_some());
            if let (Some(found), Some(best)) = (found, best) {
                prop_assert!(found.side(kept) <= f64::from(limit));
                // Steps are rounded up: of a limit of 200 in 4096 steps, integers lose at most one of them an item.
                let nearer = all.iter().map(|c| sum(&items, c)).filter(|c| c.side(kept) <= f64::from(limit) - 0.5);
                let nearer = nearer.map(|c| c.side(least)).min_by(f64::total_cmp);
                prop_assert!(found.side(least) >= best);
                prop_assert!(nearer.is_none_or(|n| found.side(least) <= n), "{found:?}, {best}, {nearer:?}");
            }
        }
    }

    #[test]
    fn what_is_left_of_options_is_not_beaten(options in prop::collection::vec((0u32..9, 0u32..9, 0u32..9), 1..20)) {
        let options: Vec<Cost> = options.into_iter().map(cost).collect();
        let left = pareto(&options);
        let at_most = |a: &Cost, b: &Cost| a.time <= b.time && a.bytes <= b.bytes && a.error <= b.error;
        for (i, option) in options.iter().enumerate() {
            let beaten = left.iter().any(|l| *l != i && at_most(&options[*l], option));
            prop_assert_eq!(left.contains(&i), !beaten);
        }
    }
}

#[test]
fn a_limit_that_is_reached_exactly_is_kept() {
    let check = |items: &[&[(u32, u32, u32)]], limit: f64, expected: Option<&[usize]>| {
        let items: Vec<Vec<Cost>> = items
            .iter()
            .map(|i| i.iter().copied().map(cost).collect())
            .collect();
        let found = solve(&items, Side::Error, limit, Side::Time);
        assert_eq!(found.as_deref(), expected, "{items:?}, {limit}");
    };
    // Nothing may be lost: what loses nothing is chosen.
    check(
        &[&[(9, 0, 0), (1, 0, 3)], &[(5, 0, 0), (2, 0, 1)]],
        0.0,
        Some(&[0, 0]),
    );
    check(
        &[&[(9, 0, 0), (1, 0, 3)], &[(5, 0, 0), (2, 0, 1)]],
        4.0,
        Some(&[1, 1]),
    );
    check(
        &[&[(9, 0, 0), (1, 0, 3)], &[(5, 0, 0), (2, 0, 1)]],
        3.5,
        Some(&[1, 0]),
    );
    check(&[&[(1, 0, 2)]], 1.0, None);
    check(&[&[]], 1.0, None);
    check(&[], 1.0, Some(&[]));
    // Of equally fast ones the smaller.
    check(&[&[(1, 9, 0), (1, 3, 0)]], 1.0, Some(&[1]));
}

#[test]
fn observed_programs_are_well_formed() {
    for case in [
        "llama_gqa",
        "llama_tied_llama3",
        "qwen3",
        "bert_tokcls",
        "distilbert_tokcls",
    ] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/fixtures")
            .join(case);
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let (program, _) = models::build(checkpoint.config(), &checkpoint).unwrap();
        let sites = sites(&program);
        let observed = Observed::new(&program, &sites).unwrap();
        let violations = observed.program.verify();
        assert!(violations.is_empty(), "{case}: {violations:?}");
        assert_eq!(observed.calls.len(), program.calls.len(), "{case}");
        assert_eq!(observed.inputs.len(), sites.len(), "{case}");
        for (site, input) in sites.iter().zip(&observed.inputs) {
            let ty = observed.program.ty(input).unwrap();
            assert_eq!(
                ty.last().size(),
                Some(site.shape[1]),
                "{case}: {:?}",
                site.names
            );
            let Operand::Result { call, .. } = input else {
                panic!("{case}: {input} is no result");
            };
            assert!(
                *call <= observed.calls[site.call],
                "{case}: {:?}",
                site.names
            );
        }
        for (site, probe) in sites.iter().zip(&observed.probes) {
            // A probe stands beside its call, and takes and updates the same.
            let Some(probe) = probe else { continue };
            let (own, copy) = (
                &observed.program.calls[observed.calls[site.call]],
                &observed.program.calls[*probe],
            );
            assert_eq!(
                (&own.args, &own.updates),
                (&copy.args, &copy.updates),
                "{case}"
            );
            assert_ne!(own.graph, copy.graph, "{case}");
        }
        assert!(observed.probes.iter().any(Option::is_some), "{case}");
    }
}
