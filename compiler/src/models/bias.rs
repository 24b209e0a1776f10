//! Biases of attention's scores, without a kernel that knows of them: heads get more dimensions, whose products are the
//! bias. Knows scores and distances; not where they lead.

use super::{
    ModelError,
    attention::Attention,
    draft::{Block, Size},
};
use ir::{
    DType, Value, feed,
    ops::{Cast, Concat, Gather, Reshape, Sub, Transpose},
};

/// What is added to the scores.
#[derive(Clone, Copy)]
pub(super) enum Bias {
    /// See [`Alibi`].
    Alibi(Alibi),
    /// See [`Relative`].
    Relative(Relative),
}

/// Attention with linear biases (arXiv 2108.12409): the score of a key `d` tokens before loses `slope * d`.
#[derive(Clone, Copy)]
pub(super) struct Alibi {
    /// Whether the bias is multiplied by the attention's scale, as the rest of the score is.
    pub(super) scaled: bool,
    /// Whether slopes and biases are rounded to bf16.
    pub(super) rounded: bool,
}

/// A learned bias for each bucket of distances between a token and what it sees (arXiv 1910.10683).
#[derive(Clone, Copy)]
pub(super) struct Relative {
    /// The table `[buckets, heads]`, in full.
    pub(super) name: &'static str,
    /// Longest sequence.
    pub(super) context: usize,
}

impl Relative {
    /// Of distances: half of them for what stands before a token, half for what stands behind it.
    pub(super) const BUCKETS: usize = 32;

    /// The bucket of what stands `distance` behind a token: one each for the first eight, then two for each doubling.
    fn bucket(distance: i64) -> usize {
        let (half, exact) = (Self::BUCKETS / 2, Self::BUCKETS / 4);
        let n = distance.unsigned_abs() as usize;
        // floor(2 log2(n / exact)), in integers.
        let doublings = || {
            (0..)
                .take_while(|m| n * n >= (exact * exact) << (m + 1))
                .count()
        };
        let size = if n < exact {
            n
        } else {
            (exact + doublings()).min(half - 1)
        };
        size + if distance > 0 { half } else { 0 }
    }
}

impl Block<'_, '_> {
    /// Queries, keys and values whose products hold the bias.
    pub(super) fn biased(
        &mut self,
        heads: [Value; 3],
        a: &Attention,
        bias: Bias,
    ) -> Result<[Value; 3], ModelError> {
        match bias {
            Bias::Alibi(alibi) => self.falling(heads, a, alibi),
            Bias::Relative(bias) => self.related(heads, a, bias),
        }
    }

    /// Heads of one more dimension, whose share of the scores is the bias. As what is added to all of a token's scores
    /// does not matter, `slope * position of the key` is as good as minus the distance: a key's dimension holds that, a
    /// query's 1. A value's holds what is dropped again.
    fn falling(
        &mut self,
        [q, k, v]: [Value; 3],
        a: &Attention,
        alibi: Alibi,
    ) -> Result<[Value; 3], ModelError> {
        let heads = a.heads.heads;
        let slopes = slopes(heads).map(|s| match alibi {
            Alibi { rounded: true, .. } => DType::BF16.round(s),
            _ => s,
        });
        let slopes: Vec<f64> = slopes.collect();
        let slopes = self.constant("alibi", &[heads, 1], &slopes);
        let positions = self.positions()?;
        let mut bias = self.product(positions, slopes)?;
        if alibi.rounded {
            bias = self.op(Cast { to: DType::BF16 }, &[bias])?;
            bias = self.op(Cast { to: DType::F32 }, &[bias])?;
        }
        if !alibi.scaled {
            bias = self.scaled(bias, 1.0 / a.scale)?;
        }
        let zeros = self.constant("zeros", &[heads, 1], &vec![0.0; heads]);
        let ones = self.product(positions, zeros)?;
        let one = self.scalar(1.0);
        let ones = self.sum(ones, one)?;
        let joined = Concat { axis: 2 };
        let any = self.slice(v, 2, 0..1)?;
        Ok([
            self.op(joined.clone(), &[q, ones])?,
            self.op(joined.clone(), &[k, bias])?,
            self.op(joined, &[v, any])?,
        ])
    }

    /// Heads of as many more dimensions as there are positions: a key's say which one it has, a query's the bias of each.
    /// Values hold there what is dropped again.
    fn related(
        &mut self,
        [q, k, v]: [Value; 3],
        a: &Attention,
        bias: Relative,
    ) -> Result<[Value; 3], ModelError> {
        let (heads, n) = (a.heads.heads, bias.context);
        let buckets = Size::new(Relative::BUCKETS, "buckets of distances");
        let count = Size::new(heads, "heads");
        let table = self.shared_weight(bias.name, &[&buckets, &count])?;
        let rows = (0..n as i64).flat_map(|i| (0..n as i64).map(move |j| (i, j)));
        let buckets: Vec<f64> = rows.map(|(i, j)| Relative::bucket(j - i) as f64).collect();
        let buckets = self.constant("buckets", &[n * n], &buckets);
        let buckets = self.op(Cast { to: DType::I32 }, &[buckets])?;
        let table = self.op(Gather, &[table, buckets])?;
        let shape = vec![n.into(), n.into(), heads.into()];
        let table = self.op(Reshape { shape }, &[table])?;
        let perm = vec![0.into(), 2.into(), 1.into()];
        let table = self.op(Transpose { perm }, &[table])?;
        let table = self.scaled(table, 1.0 / a.scale)?;

        let (row, first) = (self.feed(feed::ROWS), self.feed(feed::LO));
        let place = self.op(Sub, &[row, first])?;
        let biases = self.op(Gather, &[table, place])?;
        let one: Vec<f64> = (0..n * n)
            .map(|i| f64::from(u8::from(i % (n + 1) == 0)))
            .collect();
        let one = self.constant("places", &[n, 1, n], &one);
        let ones = self.constant("ones", &[heads, 1], &vec![1.0; heads]);
        let one = self.op(Gather, &[one, place])?;
        let places = self.product(one, ones)?;
        let joined = Concat { axis: 2 };
        Ok([
            self.op(joined.clone(), &[q, biases])?,
            self.op(joined.clone(), &[k, places])?,
            self.op(joined, &[v, places])?,
        ])
    }
}

/// The slope of each head: a geometric sequence where their number is a power of two, else that of the next smaller
/// one and every other of the next larger.
fn slopes(heads: usize) -> impl Iterator<Item = f64> {
    let whole = 1 << heads.ilog2();
    let slope = |n: usize, i: usize| (-8.0 * (i + 1) as f64 / n as f64).exp2();
    let rest = (0..heads - whole).map(move |i| slope(2 * whole, 2 * i));
    (0..whole).map(move |i| slope(whole, i)).chain(rest)
}
