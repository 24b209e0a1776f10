//! Sampling: greedy is argmax, filters keep exactly the right tokens, draws follow the softmax, seeds reproduce.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use runtime::sample::{SampleError, Sampler, SamplerOptions};
use serde_json::{Value, json};

const GREEDY: SamplerOptions = SamplerOptions {
    temperature: 0.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    seed: 0,
};

fn draws(options: SamplerOptions, logits: &[f32], n: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(options).unwrap();
    (0..n).map(|_| sampler.sample(logits).unwrap()).collect()
}

/// Softmax of `logits / temperature` over the tokens in `kept`, in plain arithmetic.
fn softmax(logits: &[f32], temperature: f64, kept: &BTreeSet<u32>) -> Vec<f64> {
    let weight = |(i, &x): (usize, &f32)| {
        if kept.contains(&(i as u32)) {
            (f64::from(x) / temperature).exp()
        } else {
            0.0
        }
    };
    let weights: Vec<f64> = logits.iter().enumerate().map(weight).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// The tokens that top-k and then top-p keep, by sorting everything.
fn kept(logits: &[f32], options: SamplerOptions) -> BTreeSet<u32> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| {
        logits[b as usize]
            .total_cmp(&logits[a as usize])
            .then(a.cmp(&b))
    });
    if options.top_k > 0 {
        order.truncate(options.top_k);
    }
    let all: BTreeSet<u32> = order.iter().copied().collect();
    let p = softmax(logits, f64::from(options.temperature), &all);
    let mut sum = 0.0;
    let mut kept = BTreeSet::new();
    for token in order {
        if sum >= f64::from(options.top_p) {
            break;
        }
        sum += p[token as usize];
        kept.insert(token);
    }
    kept
}

#[test]
fn draws_follow_the_softmax_of_what_is_kept() {
    let logits = [1.0, -0.5, 2.5, 0.0, 2.0, -3.0, 1.5, 2.0];
    let n = 200_000;
    for (temperature, top_k, top_p) in [
        (1.0, 0, 1.0),
        (0.5, 0, 1.0),
        (3.0, 0, 1.0),
        (1.0, 3, 1.0),
        (1.0, 8, 1.0),
        (1.0, 100, 1.0),
        (1.0, 0, 0.5),
        (1.0, 0, 0.9),
        (0.7, 5, 0.8),
        (1.0, 0, 1e-6),
    ] {
        let options = SamplerOptions {
            temperature,
            top_k,
            top_p,
            seed: 7,
            ..GREEDY
        };
        let kept = kept(&logits, options);
        let mut counts = vec![0usize; logits.len()];
        for token in draws(options, &logits, n) {
            counts[token as usize] += 1;
        }
        for (token, p) in softmax(&logits, f64::from(temperature), &kept)
            .into_iter()
            .enumerate()
        {
            // Five standard deviations of a binomial count: with a fixed seed it holds or it does not.
            let expected = n as f64 * p;
            let bound = 5.0 * (expected * (1.0 - p)).sqrt();
            let found = counts[token] as f64;
            assert!(
                (found - expected).abs() <= bound,
                "{options:?}: token {token} {found} times, expected {expected:.0}"
            );
            assert_eq!(
                counts[token] > 0,
                kept.contains(&(token as u32)),
                "{options:?}: token {token}"
            );
        }
    }
}

/// As `transformers` leaves distributions: see tests/fixtures/make_sampling.py.
#[test]
fn options_mean_what_they_mean_to_the_reference() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/fixtures/sampling.json"
    );
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let n = 50_000;
    for case in cases {
        let numbers = |key: &str| -> Vec<f64> {
            let list = case[key].as_array().unwrap().iter();
            list.map(|x| x.as_f64().unwrap()).collect()
        };
        let option = |key: &str| case["options"][key].as_f64().map(|x| x as f32);
        let options = SamplerOptions {
            temperature: option("temperature").unwrap_or(1.0),
            top_k: option("top_k").unwrap_or(0.0) as usize,
            top_p: option("top_p").unwrap_or(1.0),
            min_p: option("min_p").unwrap_or(0.0),
            repetition_penalty: option("repetition_penalty").unwrap_or(1.0),
            seed: 5,
        };
        let logits: Vec<f32> = numbers("logits").iter().map(|x| *x as f32).collect();
        let seen: Vec<u32> = numbers("seen").iter().map(|x| *x as u32).collect();
        let sampler = |options| {
            let mut sampler = Sampler::new(options).unwrap();
            sampler.see(&seen);
            sampler
        };
        let greedy = SamplerOptions {
            temperature: 0.0,
            ..options
        };
        let taken = sampler(greedy).sample(&logits).unwrap();
        assert_eq!(json!(taken), case["greedy"], "{case}");

        let mut counts = vec![0usize; logits.len()];
        for seed in 0..n {
            // A token that was drawn would count as seen.
            let drawn = sampler(SamplerOptions { seed, ..options }).sample(&logits);
            counts[drawn.unwrap() as usize] += 1;
        }
        for (token, p) in numbers("probabilities").into_iter().enumerate() {
            // Five standard deviations of a binomial count: with fixed seeds it holds or it does not.
            let (expected, found) = (n as f64 * p, counts[token] as f64);
            let bound = 5.0 * (expected * (1.0 - p)).sqrt() + 1.0;
            assert!(
                (found - expected).abs() <= bound && (p > 0.0 || found == 0.0),
                "{case}: token {token} {found} times, expected {expected:.0}"
            );
        }
    }
}

#[test]
fn chosen_tokens_count_as_seen() {
    let options = SamplerOptions {
        repetition_penalty: 2.0,
        ..GREEDY
    };
    // 4 / 2 is below 3, 3 / 2 below 2; then all are seen, each once.
    assert_eq!(draws(options, &[-1.0, 3.0, 4.0, 1.9], 5), [2, 1, 2, 2, 2]);
    let mut sampler = Sampler::new(options).unwrap();
    sampler.see(&[2, 2, 9, u32::MAX]);
    assert_eq!(sampler.sample(&[-1.0, 3.0, 4.0, 1.9]), Ok(1));
}

#[test]
fn equal_logits_keep_the_lowest_ids() {
    let flat = [1.0; 100];
    let set = |top_k, top_p| {
        let options = SamplerOptions {
            temperature: 1.0,
            top_k,
            top_p,
            seed: 1,
            ..GREEDY
        };
        draws(options, &flat, 5_000)
            .into_iter()
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(set(3, 1.0), (0..3).collect());
    assert_eq!(set(0, 0.25), (0..25).collect());
    assert_eq!(set(40, 0.25), (0..10).collect());
    assert_eq!(draws(GREEDY, &flat, 3), [0, 0, 0]);
}

#[test]
fn a_token_ruled_out_is_never_drawn() {
    let no = f32::NEG_INFINITY;
    for top_k in [0, 3, 4] {
        for top_p in [0.5, 0.99, 1.0] {
            let options = SamplerOptions {
                temperature: 5.0,
                top_k,
                top_p,
                seed: 3,
                ..GREEDY
            };
            let seen: BTreeSet<_> = draws(options, &[no, 0.0, no, 0.1], 2_000)
                .into_iter()
                .collect();
            assert!(seen.is_subset(&[1, 3].into()), "{options:?}: {seen:?}");
        }
    }
}

#[test]
fn extreme_temperatures_and_logits_are_no_trouble() {
    let logits = [f32::MIN, -1e30, 3.0, f32::MAX / 2.0, f32::MAX];
    let tiny = SamplerOptions {
        temperature: f32::MIN_POSITIVE,
        ..GREEDY
    };
    assert_eq!(draws(tiny, &logits, 10), [4; 10]);
    let huge = SamplerOptions {
        temperature: f32::MAX,
        top_p: 0.9,
        ..GREEDY
    };
    assert!(
        draws(huge, &[0.0, 1.0], 100)
            .into_iter()
            .collect::<BTreeSet<_>>()
            .len()
            == 2
    );
}

#[test]
fn a_seed_fixes_the_tokens() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 25.0).collect();
    let run = |seed| {
        draws(
            SamplerOptions {
                temperature: 1.0,
                top_k: 0,
                top_p: 0.95,
                seed,
                ..GREEDY
            },
            &logits,
            50,
        )
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn options_out_of_range_are_named() {
    let check = |options: SamplerOptions, words: &[&str]| {
        let message = Sampler::new(options).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "no {word:?} in {message:?}");
        }
    };
    for bad in [-0.1, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        check(
            SamplerOptions {
                temperature: bad,
                ..GREEDY
            },
            &["temperature is", &bad.to_string(), "from 0"],
        );
    }
    for bad in [-0.1, 1.01, f32::NAN, f32::INFINITY] {
        check(
            SamplerOptions {
                min_p: bad,
                ..GREEDY
            },
            &["min_p is", &bad.to_string(), "from 0 to 1"],
        );
    }
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        check(
            SamplerOptions {
                repetition_penalty: bad,
                ..GREEDY
            },
            &["repetition_penalty is", &bad.to_string(), "above 0"],
        );
    }
    for bad in [0.0, -1.0, 1.01, f32::NAN, f32::INFINITY] {
        check(
            SamplerOptions {
                top_p: bad,
                ..GREEDY
            },
            &["top_p is", &bad.to_string(), "above 0, at most 1"],
        );
    }
}

#[test]
fn logits_without_meaning_are_named() {
    for temperature in [0.0, 1.0] {
        let check = |logits: &[f32], expected: &str| {
            let mut sampler = Sampler::new(SamplerOptions {
                temperature,
                ..GREEDY
            })
            .unwrap();
            let message = sampler.sample(logits).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert_eq!(sampler.sample(&[0.0]).unwrap(), 0, "usable after an error");
        };
        check(&[0.0, f32::NAN, f32::NAN], "logit of token 1 is NaN");
        check(&[0.0, 1.0, -f32::NAN], "logit of token 2 is NaN");
        check(&[f32::INFINITY, 0.0], "logit of token 0 is inf");
        check(&[], "none of 0 tokens");
        check(&[f32::NEG_INFINITY; 3], "none of 3 tokens");
    }
    assert_eq!(
        Sampler::new(GREEDY).unwrap().sample(&[f32::NEG_INFINITY]),
        Err(SampleError::NoToken(1))
    );
}

proptest! {
    /// Many candidates, many of them equal: the kept set is that of a full sort.
    #[test]
    fn filters_agree_with_a_full_sort(
        logits in prop::collection::vec((-40i32..40).prop_map(|x| x as f32 / 8.0), 1..600),
        top_k in 0usize..700,
        top_p in 0.01f32..1.0,
        seed: u64,
    ) {
        let options = SamplerOptions { temperature: 1.5, top_k, top_p, seed, ..GREEDY };
        let kept = kept(&logits, options);
        for token in draws(options, &logits, 300) {
            prop_assert!(kept.contains(&token), "token {token} is outside of {} kept", kept.len());
        }
    }

    #[test]
    fn argmax_is_the_first_of_the_largest(row in prop::collection::vec(-3i32..3, 0..5000), no_numbers in any::<bool>()) {
        let row: Vec<f32> = row.into_iter().map(|x| if no_numbers && x < -1 { f32::NAN } else { x as f32 }).collect();
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = row.iter().position(|&x| x == most).unwrap_or(0);
        prop_assert_eq!(runtime::sample::argmax(&row), first);
    }

    #[test]
    fn greedy_is_argmax(logits in prop::collection::vec(-5i32..5, 1..50)) {
        let logits: Vec<f32> = logits.into_iter().map(|x| x as f32).collect();
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        let first = logits.iter().position(|&x| x == best).unwrap() as u32;
        prop_assert_eq!(draws(GREEDY, &logits, 1)[0], first);
        prop_assert_eq!(draws(SamplerOptions { temperature: 2.0, top_k: 1, ..GREEDY }, &logits, 1)[0], first);
    }
}
