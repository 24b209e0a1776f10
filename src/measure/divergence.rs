//! How far one distribution over tokens is from another. Knows logits; not where they come from.

/// Logarithm of the sum of exponentials, in f64. Four independent sums, so that additions overlap.
pub(super) fn log_sum_exp(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0f64; 4];
    for part in row.chunks(4) {
        for (sum, x) in sums.iter_mut().zip(part) {
            *sum += f64::from((x - most).exp());
        }
    }
    f64::from(most) + sums.iter().sum::<f64>().ln()
}

/// Kullback-Leibler divergence `sum p (ln p - ln q)` in nats, where `p` and `q` are the softmax of the logits given.
pub(super) fn kl(p: &[f32], q: &[f32]) -> f64 {
    let (p_norm, q_norm) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(p, q): (&f32, &f32)| {
        let ln_p = f64::from(*p) - p_norm;
        match f64::from((ln_p as f32).exp()) {
            0.0 => 0.0,
            p => p * (ln_p - (f64::from(*q) - q_norm)),
        }
    };
    // Rounding may leave equal distributions a hair below zero.
    p.iter().zip(q).map(term).sum::<f64>().max(0.0)
}

/// Negative log-likelihood of each target in its row of logits, rows of `width` elements; rows without a target are left out.
pub(crate) fn loss_of_rows(logits: &[f32], width: usize, targets: &[u32]) -> Vec<f64> {
    let rows = logits.chunks_exact(width.max(1)).zip(targets);
    rows.map(|(row, target)| log_sum_exp(row) - f64::from(row[*target as usize]))
        .collect()
}

/// Divergence of each row of logits `q` from the same row of `p`, rows of `width` elements; on as many threads as there are
/// cores.
pub(crate) fn kl_of_rows(p: &[f32], q: &[f32], width: usize) -> Vec<f64> {
    let width = width.max(1);
    let rows = p.len() / width;
    let mut found = vec![0.0; rows];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = rows.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (i, to) in found.chunks_mut(share).enumerate() {
            let part = i * share * width..(i * share + to.len()) * width;
            let (p, q) = (&p[part.clone()], &q[part]);
            scope.spawn(move || {
                for ((to, p), q) in to.iter_mut().zip(p.chunks(width)).zip(q.chunks(width)) {
                    *to = kl(p, q);
                }
            });
        }
    });
    found
}

/// Divergence from the other model, over tokens, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kl {
    /// Average.
    pub mean: f64,
    /// 99 % of the tokens have at most this.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

/// How a model agrees with another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Divergence of this model from the other.
    pub kl: Kl,
    /// Share of the tokens at which both find the same token likeliest.
    pub top1: f64,
}

impl Agreement {
    /// From each token's divergence and whether the likeliest token is the same; `None` for no tokens.
    pub(super) fn of(tokens: &[(f64, bool)]) -> Option<Agreement> {
        let mut kl: Vec<f64> = tokens.iter().map(|t| t.0).collect();
        kl.sort_by(f64::total_cmp);
        let count = tokens.len() as f64;
        Some(Agreement {
            kl: Kl {
                mean: kl.iter().sum::<f64>() / count,
                p99: super::latency::percentile(&kl, 0.99)?,
                max: *kl.last()?,
            },
            top1: tokens.iter().filter(|t| t.1).count() as f64 / count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_by_hand() {
        let check = |p: &[f32], q: &[f32], expected: f64| {
            let logits = |x: &[f32]| x.iter().map(|x| x.ln() + 3.0).collect::<Vec<_>>();
            let found = kl(&logits(p), &logits(q));
            assert!(
                (found - expected).abs() < 1e-6,
                "{p:?} {q:?}: {found}, {expected}"
            );
        };
        check(&[0.5, 0.5], &[0.5, 0.5], 0.0);
        // 0.5 ln 2 + 0.5 ln (2 / 3)
        check(&[0.5, 0.5], &[0.25, 0.75], 0.143_841_036);
        check(&[1.0, 0.0, 0.0], &[0.25, 0.5, 0.25], f64::ln(4.0));
    }

    #[test]
    fn log_sum_exp_of_large_logits() {
        let check = |row: &[f32], expected: f64| {
            assert!((log_sum_exp(row) - expected).abs() < 1e-6, "{row:?}");
        };
        check(&[1000.0; 5], 1000.0 + f64::ln(5.0));
        check(&[-1000.0, 0.0, f32::NEG_INFINITY], 0.0);
    }

    #[test]
    fn agreement_of_few_tokens() {
        let found = Agreement::of(&[(3.0, true), (1.0, false)]).unwrap();
        assert_eq!((found.kl.mean, found.kl.max, found.top1), (2.0, 3.0, 0.5));
        assert_eq!(Agreement::of(&[]), None);
    }
}
