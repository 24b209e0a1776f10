//! Whether a weight has few directions, told from a part of it before anything large is decomposed: what is left of the
//! outputs' second moments when some outputs, drawn at random, explain the others (Nystrom's approximation, by one
//! Cholesky decomposition; Drineas & Mahoney 2005). That is about what the best product of the rank leaves where the spectrum
//! falls: a weight of which integers of as many bits leave less at all ranks needs no look at its
//! singular values.

use super::{CompressError, Form, Matrix, Moments, low_rank::STEP, nearest, sample::random};
use faer::Mat;
use ir::DType;

/// Most ranks that are offered of a weight, spread evenly in their logarithm.
const RANKS: usize = 8;
/// Share of the outputs' mean square that a product may leave, where there are no integers to compare with.
const WORTH: f64 = 0.25;
/// Outputs beyond the rank that explain the others.
const BEYOND: usize = 8;
/// Added to the diagonal, relative to its mean: what is below it is rounding. More where moments are singular.
const DAMPING: [f64; 4] = [1e-6, 1e-5, 1e-4, 1e-3];

/// Multiples of [`STEP`] at which two factors of a weight `[n, k]` are smaller than the whole.
pub(super) fn possible([n, k]: [usize; 2]) -> Vec<usize> {
    let break_even = (n * k).saturating_sub(1) / (n + k).max(1);
    (1..=break_even / STEP).map(|i| i * STEP).collect()
}

/// Ranks worth a look, at most [`RANKS`], of a weight of that shape of which `rows` are some, with some of its inputs.
///
/// # Errors
/// Moments that are those of no inputs.
pub(super) fn ranks(
    shape: [usize; 2],
    rows: &Matrix,
    moments: &Moments,
) -> Result<Vec<usize>, CompressError> {
    let possible = possible(shape);
    if possible.is_empty() {
        return Ok(vec![]);
    }
    let left = left(rows, moments)?;
    let integers = Integers::of(rows, moments, left[0])?;
    // The mean over outputs that are not among those that explain; of the last few it is noise. A few more than the rank explain
    // about as much as the best directions do (oversampling, Halko, Martinsson & Tropp 2011).
    let (n, taken) = (shape[0] as f64, rows.rows);
    let share = |rank: usize| {
        let mean = |from: usize| left[from] / (taken - from) as f64;
        (1.0 - rank as f64 / n) * mean(rank + BEYOND) / mean(0)
    };
    let seen = |rank: &usize| rank + BEYOND + (taken / 8).max(1) <= taken;
    let most = |rank: usize| {
        let product = Form::product(rank as u32, Form::integers(8, STEP as u32));
        let integers = integers.as_ref();
        integers.map_or(WORTH, |i| i.most(bits_of(&product, shape)))
    };
    let worth = |rank: &usize| seen(rank) && (left[0] <= 0.0 || share(*rank) <= most(*rank));
    let all: Vec<usize> = possible.into_iter().filter(worth).collect();
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        return Ok(vec![]);
    };
    if all.len() <= RANKS {
        return Ok(all);
    }
    let ratio = (*last as f64 / *first as f64).powf(1.0 / (RANKS - 1) as f64);
    let even = (0..RANKS).map(|i| *first as f64 * ratio.powi(i as i32));
    let mut out: Vec<usize> = even
        .filter_map(|wanted| {
            all.iter()
                .find(|r| **r as f64 >= wanted - 0.5 * STEP as f64)
        })
        .copied()
        .collect();
    out.dedup();
    Ok(out)
}

/// What rounding leaves, as a share of the outputs' mean square, by bits an element: each takes away the same factor.
struct Integers {
    /// Bits and share of integers of 3 and of 4 bits, in the least groups.
    known: [(f64, f64); 2],
}

impl Integers {
    /// Of outputs whose mean squares add up to `whole`; rounding errors do not go together. `None` where groups do not divide the
    /// inputs, or nothing is lost.
    ///
    /// # Errors
    /// As [`nearest::encode`].
    fn of(rows: &Matrix, moments: &Moments, whole: f64) -> Result<Option<Integers>, CompressError> {
        let (n, k) = (rows.rows, rows.columns);
        if n * k == 0 || !k.is_multiple_of(STEP) {
            return Ok(None);
        }
        let mut known = [(0.0, 0.0); 2];
        for (known, bits) in known.iter_mut().zip([3, 4]) {
            let form = Form::integers(bits, STEP as u32);
            let lost = rows.minus(&nearest::encode(rows, &form)?.decode(rows));
            let squares = lost
                .data
                .chunks(k)
                .flat_map(|row| row.iter().zip(moments.squares()));
            let squares = squares.map(|(d, h)| f64::from(*d).powi(2) * f64::from(*h));
            *known = (bits_of(&form, [n, k]), squares.sum::<f64>() / whole);
        }
        let some = known
            .iter()
            .all(|(_, share)| *share > 0.0 && share.is_finite());
        Ok(some.then_some(Integers { known }))
    }

    /// What a product of so many bits may leave: what integers of as many do, but never more than those of 3 bits.
    fn most(&self, bits: f64) -> f64 {
        let [(few, more), (many, less)] = self.known;
        (less * (more / less).powf((many - bits) / (many - few))).min(more)
    }
}

/// Bits an element of a form that leaves nothing as it is stored.
fn bits_of(form: &Form, [n, k]: [usize; 2]) -> f64 {
    8.0 * form.bytes([n, k], DType::F32) as f64 / (n * k) as f64
}

/// What the first so many rows, in an order drawn at random, leave of the outputs' mean squares: from none of them to all.
fn left(rows: &Matrix, moments: &Moments) -> Result<Vec<f64>, CompressError> {
    let n = rows.rows;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|i| random(*i as u64));
    let gram = rows.times(moments.second()?).times(&rows.transposed());
    let mean = gram.diagonal().map(f64::from).sum::<f64>() / n.max(1) as f64;
    if mean <= 0.0 {
        return Ok(vec![0.0; n + 1]);
    }
    let damped = |by: f64| {
        Mat::from_fn(n, n, |i, j| {
            let (i, j) = (order[i], order[j]);
            let both = f64::from(gram.row(i)[j]) + f64::from(gram.row(j)[i]);
            both / 2.0 + if i == j { by * mean } else { 0.0 }
        })
    };
    let lower = DAMPING
        .into_iter()
        .find_map(|by| damped(by).llt(faer::Side::Lower).ok());
    let lower = lower.ok_or(CompressError::Indefinite)?;
    let mut left = vec![0.0; n + 1];
    for j in (0..n).rev() {
        let column = (j..n).map(|i| lower.L()[(i, j)].powi(2));
        left[j] = left[j + 1] + column.sum::<f64>();
    }
    Ok(left)
}
