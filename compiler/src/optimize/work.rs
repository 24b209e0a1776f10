//! What an op does, in numbers, seen from the facts of its arguments. Knows no times; kernels that are scheduled say more
//! exactly what they do (`schedule/work.rs`).

use super::{cost::Binding, egraph::Known};
use ir::{
    DType, Op, OpKind, Type,
    abi::Codec,
    artifact::{Attention, Core, Product, Work},
};

/// An op by itself: as a kernel, or as part of a body. Bytes are not counted.
pub(super) fn work(op: &Op, args: &[&Known], out: &Type, at: &Binding) -> Work {
    let core = core(op.kind(), args, out, at).unwrap_or_default();
    let types: Vec<Type> = args.iter().map(|f| f.ty.clone()).collect();
    let flops = match core {
        Core::Map => at.size(&op.flops(&types, out)),
        Core::Product(_) | Core::Attention(_) => 0,
    };
    Work {
        elements: at.size(&out.numel()),
        flops,
        core,
        ..Work::default()
    }
}

fn core(kind: OpKind, args: &[&Known], out: &Type, at: &Binding) -> Option<Core> {
    let axis = |known: &Known, i: usize| Some(at.size(known.ty.shape.get(i)?));
    match kind {
        OpKind::Gemm | OpKind::Linear | OpKind::MatMul => {
            let weights = match kind {
                OpKind::Gemm => &args[1..args.len() - 1],
                _ => &args[1..],
            };
            let first = weights.first()?;
            if out.shape.len() != 2 || !weights.iter().all(|w| w.weights_only) {
                return None;
            }
            let (inputs, codec) = (args[0].storage.codec, first.storage.codec);
            Some(Core::Product(Product {
                rows: at.size(&out.rows()),
                depth: at.size(&args[0].ty.last()),
                columns: at.size(&out.last()).saturating_mul(weights.len() as u64),
                inputs: match (inputs, codec) {
                    // Rows of integers are for weights in the same groups.
                    (Codec::Grouped { group: g, .. }, Codec::Grouped { group, .. })
                        if g == group =>
                    {
                        inputs
                    }
                    (Codec::Grouped { .. }, _) => Codec::Plain(DType::F32),
                    (plain, _) => plain,
                },
                codec,
            }))
        }
        OpKind::Attention => {
            let [q, k] = [args.first()?, args.get(1)?];
            let heads = axis(k, 1)?;
            let queries = axis(q, 0)?.saturating_mul(axis(q, 1)?);
            Some(Core::Attention(Attention {
                heads,
                rows: queries / heads.max(1),
                keys: at.keys(axis(k, 0)?),
                dim: axis(q, 2)?,
                dtype: k.ty.dtype,
                cached: k.ty.shape[0] != q.ty.shape[0],
            }))
        }
        _ => None,
    }
}
