//! Where integers that share scales are stored: weights in panels, and rows that meet such weights. Knows no layout.

use super::{kernel::Round, kernels::Kernels};
use ir::{DType, Op, Value, abi::Codec};

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
        let Codec::Grouped { bits, group } = codec else {
            return None;
        };
        if storage.scale != DType::F32 {
            return None;
        }
        let wants = |user: &Value| {
            let args = self.graph.args(*user);
            let [x, weights @ .., body] = args else {
                return false;
            };
            let codec = self.common_storage(weights);
            matches!(self.graph.op(*user), Some(Op::Gemm(_)))
                && *x == v
                && *body != v
                && !weights.contains(&v)
                && matches!(codec, Codec::Grouped { group: g, .. } if g == group)
        };
        let users = self.graph.users(v);
        let all = self.order.codes
            && bits == 8
            && users.iter().all(wants)
            && !self.graph.outputs.contains(&v);
        let round = if all {
            Round::Codes(codec)
        } else {
            Round::Values(codec)
        };
        Some((*rows, round))
    }

    /// How a weight `[K, N]` is stored in panels.
    fn columns(&self, w: Value) -> Codec {
        let storage = self.storage[w.index()];
        match storage.codec {
            // Groups along rows, or with other scales: no panel holds them.
            Codec::Grouped { .. } if storage.axis != 0 || storage.scale != DType::F16 => {
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
