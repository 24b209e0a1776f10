//! The Attention template: a task is some query rows of one key/value head; the runtime does the rest.

use super::function::Function;
use crate::schedule::View;
use cranelift_codegen::ir::InstBuilder;
use ir::{
    DType,
    abi::{AttentionArgs, KernelTable, Layout},
    artifact::Tasks,
    ops,
};
use std::mem::{offset_of, size_of};

/// Query rows, over all heads of a group, of a task: enough for the tile to share the keys it packs.
const ROWS: i64 = 64;

/// Emits the kernel; gives its tasks and grain.
pub fn emit(f: &mut Function, op: &ops::Attention, views: &[View]) -> Result<(Tasks, u64), String> {
    let [q, k, v, lo, hi, out] = views else {
        return Err("wants six operands".into());
    };
    let size = |view: &View, axis: usize| {
        view.shape[axis]
            .known()
            .ok_or_else(|| format!("symbolic axis {axis} of {view:?}"))
    };
    let (heads, groups, head_dim) = (size(q, 1)?, size(k, 1)?, size(q, 2)?);
    let in_blocks = match [k.layout, v.layout] {
        [Layout::Rows, Layout::Rows] => false,
        [Layout::Keys, Layout::Values] | [Layout::KeyCodes, Layout::ValueCodes] => true,
        other => return Err(format!("keys and values lie as {other:?}")),
    };
    if k.strides[0] != v.strides[0] || lo.strides != [1] || hi.strides != [1] {
        return Err("keys and values lie differently".into());
    }
    let attention = match (k.dtype, v.dtype) {
        (DType::F32, DType::F32) => offset_of!(KernelTable, attention_f32),
        (DType::BF16, DType::BF16) => offset_of!(KernelTable, attention_bf16),
        (DType::F16, DType::F16) => offset_of!(KernelTable, attention_f16),
        (DType::I8, DType::I8) if in_blocks => offset_of!(KernelTable, attention_q8),
        (k, v) => return Err(format!("keys are {k}, values {v}")),
    };
    let group = heads / groups;
    let rows_per_task = (ROWS / group).max(1);
    let bases: Vec<_> = (0..6).map(|i| f.operand(i)).collect();
    let rows = f.dim(&q.shape[0])?;
    let round = f.add(rows, rows_per_task - 1);
    let block = f.int(rows_per_task);
    let blocks = f.b.ins().udiv(round, block);
    let (begin, end) = (f.begin, f.end);
    f.repeat(begin, end, 1, &[], |f, task, _| {
        let head = f.b.ins().udiv(task, blocks);
        let used = f.b.ins().imul(head, blocks);
        let row_block = f.b.ins().isub(task, used);
        let row = f.scale(row_block, rows_per_task);
        let left = f.b.ins().isub(rows, row);
        let tokens = f.min(left, block);
        let queries = |f: &mut Function, base, stride: i64| {
            let at = f.offset(base, row, 4 * stride);
            f.offset(at, head, 4 * group * head_dim)
        };
        let q_at = queries(f, bases[0], q.strides[0]);
        let out_at = queries(f, bases[5], out.strides[0]);
        let head_step = if in_blocks { k.strides[1] } else { head_dim };
        let head_bytes = k.dtype.bytes() as i64 * head_step;
        let k_at = f.offset(bases[1], head, head_bytes);
        let v_at = f.offset(bases[2], head, head_bytes);
        let lo_at = f.offset(bases[3], row, 4);
        let hi_at = f.offset(bases[4], row, 4);
        let fields = [
            (offset_of!(AttentionArgs, q), q_at),
            (offset_of!(AttentionArgs, q_stride), f.int(q.strides[0])),
            (offset_of!(AttentionArgs, k), k_at),
            (offset_of!(AttentionArgs, v), v_at),
            (offset_of!(AttentionArgs, kv_stride), f.int(k.strides[0])),
            (
                offset_of!(AttentionArgs, block_stride),
                f.int(if in_blocks { k.strides[0] } else { 0 }),
            ),
            (offset_of!(AttentionArgs, out), out_at),
            (offset_of!(AttentionArgs, out_stride), f.int(out.strides[0])),
            (offset_of!(AttentionArgs, lo), lo_at),
            (offset_of!(AttentionArgs, hi), hi_at),
            (offset_of!(AttentionArgs, tokens), tokens),
            (offset_of!(AttentionArgs, group), f.int(group)),
            (offset_of!(AttentionArgs, head_dim), f.int(head_dim)),
            (offset_of!(AttentionArgs, scale), f.float(op.scale.get())),
            (
                offset_of!(AttentionArgs, softcap),
                f.float(op.softcap.get()),
            ),
        ];
        let args = f.structure(size_of::<AttentionArgs>(), &fields);
        f.call(attention, &[args], None);
        Ok(vec![])
    })?;
    let tasks = Tasks {
        rows: q.shape[0].clone(),
        rows_per_task: rows_per_task as u64,
        columns: groups as u64,
    };
    Ok((tasks, 1))
}
