//! The memory plan of any lifetimes passes the checker, and no wrong plan does: two pieces of code that share nothing.

use compiler::schedule::{ALIGNMENT, Access, Accesses, Lifetime, check, place};
use ir::artifact::Base;
use proptest::prelude::*;

const LAUNCHES: usize = 12;

/// Values: bytes, the launch that writes each, and how many launches later it is read last.
fn lifetimes() -> impl Strategy<Value = Vec<Lifetime>> {
    let size = prop_oneof![1..5u64, 1..300u64, Just(64), Just(4096)];
    let value = (size, 0..LAUNCHES, 0..LAUNCHES).prop_map(|(size, first, more)| Lifetime {
        size,
        first,
        last: (first + more).min(LAUNCHES - 1),
    });
    prop::collection::vec(value, 1..24)
}

/// A program that writes each value once and reads it in every launch of its life.
fn program(values: &[Lifetime], offsets: &[u64]) -> Vec<Accesses> {
    let access = |value: usize| Access {
        value,
        base: Base::Arena,
        offset: offsets[value],
        size: values[value].size,
    };
    let launch = |i: usize| Accesses {
        launch: format!("launch {i}"),
        reads: (0..values.len())
            .filter(|v| values[*v].first < i && i <= values[*v].last)
            .map(access)
            .collect(),
        writes: (0..values.len())
            .filter(|v| values[*v].first == i)
            .map(access)
            .collect(),
    };
    (0..LAUNCHES).map(launch).collect()
}

fn alive_together(a: &Lifetime, b: &Lifetime) -> bool {
    a.first <= b.last && b.first <= a.last
}

/// Most bytes alive at once: no plan needs less.
fn least(values: &[Lifetime]) -> u64 {
    let at = |i: usize| {
        let alive = values.iter().filter(|v| v.first <= i && i <= v.last);
        alive.map(|v| v.size).sum()
    };
    (0..LAUNCHES).map(at).max().unwrap_or(0)
}

proptest! {
    #[test]
    fn plans_pass_the_check(values in lifetimes()) {
        let (offsets, arena) = place(&values);
        prop_assert_eq!(check(&program(&values, &offsets), arena), Ok(()));
        prop_assert!(offsets.iter().all(|o| o % ALIGNMENT == 0) && arena % ALIGNMENT == 0);
        let alone: u64 = values.iter().map(|v| v.size.next_multiple_of(ALIGNMENT)).sum();
        prop_assert!((least(&values)..=alone).contains(&arena));
    }

    #[test]
    fn values_alive_together_that_overlap_are_found(
        values in lifetimes(),
        pick in any::<(prop::sample::Index, prop::sample::Index, prop::sample::Index)>(),
    ) {
        let (mut offsets, arena) = place(&values);
        let (a, b) = (pick.0.index(values.len()), pick.1.index(values.len()));
        prop_assume!(a != b && alive_together(&values[a], &values[b]));
        // Somewhere inside the other one.
        offsets[b] = offsets[a] + pick.2.index(values[a].size as usize) as u64;
        prop_assert!(check(&program(&values, &offsets), arena + 8192).is_err());
    }

    #[test]
    fn swapped_values_are_found(values in lifetimes(), pick in any::<(prop::sample::Index, prop::sample::Index)>()) {
        let (mut offsets, arena) = place(&values);
        let (a, b) = (pick.0.index(values.len()), pick.1.index(values.len()));
        let mut program = program(&values, &offsets);
        prop_assume!(offsets[a] != offsets[b] && values[a].last > values[a].first);
        // Readers look for one value where another one is.
        offsets.swap(a, b);
        for read in program.iter_mut().flat_map(|l| &mut l.reads).filter(|r| r.value == a) {
            read.offset = offsets[a];
        }
        prop_assert!(check(&program, arena + 8192).is_err());
    }

    #[test]
    fn an_arena_too_small_is_found(values in lifetimes()) {
        let (offsets, _) = place(&values);
        let end = values.iter().zip(&offsets).map(|(v, o)| o + v.size).max().unwrap_or(0);
        prop_assert_eq!(check(&program(&values, &offsets), end), Ok(()));
        prop_assert!(check(&program(&values, &offsets), end - 1).is_err());
    }
}

#[test]
fn values_that_never_meet_share_memory() {
    let value = |first, last| Lifetime {
        size: 100,
        first,
        last,
    };
    let (offsets, arena) = place(&[value(0, 1), value(1, 2), value(2, 3), value(3, 4)]);
    assert_eq!((offsets, arena), (vec![0, 128, 0, 128], 256));
}

#[test]
fn reading_what_was_never_written_is_found() {
    let read = Access {
        value: 0,
        base: Base::Input(0),
        offset: 0,
        size: 4,
    };
    let launch = Accesses {
        launch: "only".into(),
        reads: vec![read],
        writes: vec![],
    };
    let conflicts = check(&[launch], 0).expect_err("nothing was written");
    assert_eq!(conflicts[0].value, 0);
    assert!(
        conflicts[0].to_string().contains("only"),
        "{}",
        conflicts[0]
    );
}
