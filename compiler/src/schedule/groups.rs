//! Where integers that share scales are stored: weights in panels, and rows that meet such weights. Knows no layout.

use super::{kernel::Round, kernels::Kernels};
use ir::{
    DType, Op, Type, Value,
    abi::{Codec, cuda::Cell},
};

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

    /// As what a value is stored that a kernel with this body computes: rows that products alone read in bf16, where the body
    /// rounds them to that.
    pub(super) fn stored(&self, v: Value, body: Value) -> Type {
        let ty = self.graph.ty(v);
        let exact = self.storage[body.index()].dtype() == Some(DType::BF16);
        let cells = |codec| Cell::of(codec).is_some();
        let narrow = self.order.narrow && exact && self.only_multiplied(v, cells);
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
