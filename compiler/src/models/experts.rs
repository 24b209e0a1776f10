//! Mixtures of experts: each token picks a few of many feed-forward layers. Knows how they are picked; no family.

use super::{
    ModelError,
    draft::{Block, Size},
};
use crate::checkpoint::{CheckpointError, Config};
use ir::{
    Value,
    ops::{self, Concat, Div, Reshape, Softmax, Sum, TopKIds, TopKValues},
};

/// See the module's text.
pub(super) struct Experts {
    /// Name of the projection whose largest outputs pick.
    pub(super) router: &'static str,
    /// How many there are.
    pub(super) count: Size,
    /// How many each token picks.
    pub(super) chosen: usize,
    /// Whether their weights add up to one.
    pub(super) normalized: bool,
    /// What comes before an expert's number.
    pub(super) stem: &'static str,
    /// Names of an expert's gate, of what is gated, and of the projection back.
    pub(super) names: [&'static str; 3],
    /// Width inside an expert.
    pub(super) inner: Size,
}

impl Experts {
    /// How many there are, by the first of `keys` that the config has, and how many each token picks.
    ///
    /// # Errors
    /// More are picked than there are, or none.
    pub(super) fn counts(config: &Config, keys: &[&str]) -> Result<(Size, usize), CheckpointError> {
        const CHOSEN: &str = "num_experts_per_tok";
        let count = Size::read(config, config.any(keys))?;
        let chosen = config.usize(CHOSEN)?;
        if !(1..=count.n).contains(&chosen) {
            let expected = format!("an integer from 1 to the number of experts, {}", count.n);
            return Err(config.invalid(CHOSEN, expected));
        }
        Ok((count, chosen))
    }
}

impl Block<'_, '_> {
    /// `x` through the experts that each row picks.
    pub(super) fn experts(&mut self, x: Value, e: &Experts) -> Result<Value, ModelError> {
        let (width, k) = (self.width(x), e.chosen as i64);
        let scores = self.linear(e.router, x, &e.count, false)?;
        let scores = self.op(Softmax, &[scores])?;
        let numbers: Vec<f64> = (0..e.count.n).map(|i| i as f64).collect();
        let index = self.constant("experts", &[e.count.n], &numbers);
        let ids = self.op(TopKIds { k }, &[scores, index])?;
        let mut weights = self.op(TopKValues { k }, &[scores, index])?;
        if e.normalized {
            let sum = self.op(Sum, &[weights])?;
            weights = self.op(Div, &[weights, sum])?;
        }
        let [gate, up, down] = e.names;
        let gate = self.stacked(e, gate, [&e.inner, &width])?;
        let up = self.stacked(e, up, [&e.inner, &width])?;
        let down = self.stacked(e, down, [&width, &e.inner])?;
        self.op(ops::Experts, &[x, ids, weights, gate, up, down])
    }

    /// The weights `name` of all experts, `[experts, out, width]`.
    fn stacked(
        &mut self,
        e: &Experts,
        name: &str,
        [out, width]: [&Size; 2],
    ) -> Result<Value, ModelError> {
        let mut all = vec![];
        for i in 0..e.count.n {
            let w = self.projection(&format!("{}{i}.{name}", e.stem), out, width)?;
            let shape = vec![1.into(), out.n.into(), width.n.into()];
            all.push(self.op(Reshape { shape }, &[w])?);
        }
        self.op(Concat { axis: 0 }, &all)
    }
}
