//! Where integers that share scales are stored: weights in panels, and rows that meet such weights. Knows no layout.

use super::{
    kernel::Round,
    kernels::{Kernels, is_view},
};
use ir::{DType, Op, Type, Value, abi::Codec};

impl Kernels<'_> {
    /// How a value's rows are stored, where the map that computes it rounds them to integers; and whether its readers
    /// want those: products with weights in the same groups, and nothing else.
    pub(super) fn round(&self, v: Value, body: Value) -> Option<(Value, Round)> {
        let (Some(Op::FakeQuantize(_)), [rows]) = (self.graph.op(body), self.graph.args(body))
        else {
            return None;
        };
        let storage = self.storage[body.index()];
        let codec = storage.codec;
        codec.grouped()?;
        if storage.scale != DType::F32 {
            return None;
        }
        let alike = |weights: Codec| weights.meets(codec);
        // A state that holds integers is seen to where rows are put into it.
        let all = self.order.codes && self.only_multiplied(v, alike);
        let round = if all {
            Round::Codes(codec)
        } else {
            Round::Values(codec)
        };
        Some((*rows, round))
    }

    /// Whether nothing reads a value but products with weights that are stored so, as their rows.
    fn only_multiplied(&self, v: Value, stored: impl Fn(Codec) -> bool) -> bool {
        let multiplied = |user: &Value| {
            let args = self.graph.args(*user);
            let [x, weights @ .., body] = args else {
                return false;
            };
            matches!(self.graph.op(*user), Some(Op::Gemm(_)))
                && *x == v
                && *body != v
                && !weights.contains(&v)
                && stored(self.common_storage(weights))
        };
        self.graph.users(v).iter().all(multiplied) && !self.graph.outputs.contains(&v)
    }

    /// Whether nothing reads a value, or views of it, but products, as their rows, and attention, which take bf16.
    fn takes_narrow(&self, v: Value) -> bool {
        let narrow = self.order.narrow;
        let takes = |user: &Value| match (self.graph.op(*user), self.graph.args(*user)) {
            (Some(Op::Gemm(_)), [x, weights @ .., body]) => {
                *x == v
                    && *body != v
                    && !weights.contains(&v)
                    && narrow.product(self.common_storage(weights))
            }
            (Some(Op::Attention(_)), [_, _, _, rest @ ..]) => {
                narrow.attention() && !rest.contains(&v)
            }
            (Some(op), _) => is_view(op) && self.takes_narrow(*user),
            _ => false,
        };
        self.graph.users(v).iter().all(takes) && !self.graph.outputs.contains(&v)
    }

    /// Whether all that reads a value, or views of it, are maps that round it to bf16 and are stored so.
    pub(super) fn rounded(&self, v: Value) -> bool {
        let rounds = |user: &Value| match (self.graph.op(*user), self.graph.args(*user)) {
            (Some(Op::Map(_)), [x, body]) => {
                *x == v && self.rounds(*body) && self.stored(*user, *body).dtype == DType::BF16
            }
            (Some(op), _) => is_view(op) && self.rounded(*user),
            _ => false,
        };
        let users = self.graph.users(v);
        !users.is_empty() && users.iter().all(rounds) && !self.graph.outputs.contains(&v)
    }

    /// Whether a body does nothing but round to bf16.
    pub(super) fn rounds(&self, body: Value) -> bool {
        let cast = |v: Value, dtype| match (self.graph.op(v), self.graph.args(v)) {
            (Some(Op::Cast(cast)), [x]) if cast.to == dtype => Some(*x),
            _ => None,
        };
        let inner = cast(body, DType::F32).and_then(|v| cast(v, DType::BF16));
        inner.is_some_and(|v| matches!(self.graph.op(v), Some(Op::Acc(_))))
    }

    /// As what a value is stored that a kernel with this body computes: what products and attention alone read in bf16, where
    /// the body rounds it to that.
    pub(super) fn stored(&self, v: Value, body: Value) -> Type {
        let ty = self.graph.ty(v);
        let exact = self.storage[body.index()].dtype() == Some(DType::BF16);
        let narrow = exact && self.takes_narrow(v);
        Type {
            dtype: if narrow { DType::BF16 } else { ty.dtype },
            shape: ty.shape.clone(),
        }
    }

    /// How a weight `[K, N]` is stored in panels.
    fn columns(&self, w: Value) -> Codec {
        let storage = self.storage[w.index()];
        match storage.codec {
            // Groups along rows, of other sizes, or with other scales: no panel holds them.
            Codec::Grouped { group, .. }
                if storage.axis != 0 || storage.scale != DType::F16 || group % 32 != 0 =>
            {
                Codec::Plain(DType::F32)
            }
            codec => codec,
        }
    }

    /// How weights of one product are stored: as one of them is, where all are stored alike.
    pub(super) fn common_storage(&self, weights: &[Value]) -> Codec {
        let wide = Codec::Plain(DType::F32);
        let mut kinds = weights.iter().map(|w| self.columns(*w));
        let first = kinds.next().unwrap_or(wide);
        if kinds.all(|k| k == first) {
            first
        } else {
            wide
        }
    }
}
