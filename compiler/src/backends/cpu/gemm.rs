//! The Gemm template: tasks of some rows times some panels; the runtime's tile computes products into scratch, then
//! the body runs over them while they are in cache.

use super::{
    function::Function,
    functions::Spare,
    rows::{Columns, Row, RowBody},
};
use crate::schedule::View;
use cranelift_codegen::ir::{InstBuilder, Value};
use ir::{
    DType, Element, Graph,
    abi::{Codec, GroupedGemms, KernelTable, PANEL, SCRATCH_BYTES, STRIP},
    artifact::Tasks,
};
use std::{collections::HashMap, mem::offset_of};

/// Rows of a task: the tile of scratch stays in the first-level cache beside a panel.
const ROWS: i64 = 64;
/// Panels of a task: several are in flight at once when there are few rows. Grouped ones lie in strips of as many.
const PANELS: i64 = STRIP as i64;
/// Scratch memory for rows of functions.
const SPARE_BYTES: i64 = 64 << 10;
/// Bytes of weights below which a task is not worth another thread.
const GRAIN_BYTES: i64 = 16 << 10;

/// What is multiplied: see [`Template::Gemm`](crate::schedule::Template::Gemm).
#[derive(Clone, Copy)]
pub struct Product {
    pub weights: usize,
    pub columns: i64,
    pub codec: Codec,
    pub rows: Codec,
}

impl Product {
    /// The tile's place in the function table, and the group size that it wants to be told.
    fn tile(self) -> Result<(usize, Option<u32>), String> {
        const F32: Codec = Codec::Plain(DType::F32);
        const BF16: Codec = Codec::Plain(DType::BF16);
        let plain = |slot| Ok((slot, None));
        match (self.rows, self.codec) {
            (F32, F32) => plain(offset_of!(KernelTable, gemm_f32)),
            (F32, BF16) => plain(offset_of!(KernelTable, gemm_bf16)),
            (BF16, BF16) => plain(offset_of!(KernelTable, gemm_bf16_rows)),
            (F32, Codec::Plain(DType::F16)) => plain(offset_of!(KernelTable, gemm_f16)),
            (rows, codec) => {
                let unknown = || {
                    format!("rows of {rows} and weights of {codec}: the CPU has no kernel for them")
                };
                let (element, group) = codec.grouped().ok_or_else(unknown)?;
                let at = match rows.grouped().map(|(element, _)| element) {
                    None if rows == F32 => offset_of!(GroupedGemms, f32),
                    Some(Element::Q8) if codec.meets(rows) => offset_of!(GroupedGemms, q8),
                    Some(Element::Q16) if codec.meets(rows) => offset_of!(GroupedGemms, q16),
                    _ => return Err(unknown()),
                };
                let index = element.index().ok_or_else(unknown)?;
                let of_element =
                    offset_of!(KernelTable, grouped) + index * size_of::<GroupedGemms>();
                Ok((of_element + at, Some(group)))
            }
        }
    }
}

/// Emits the kernel; gives its tasks and grain.
pub fn emit(
    f: &mut Function,
    body: &Graph,
    product: Product,
    views: &[View],
) -> Result<(Tasks, u64), String> {
    let (slot, shared) = product.tile()?;
    let Product {
        weights, columns, ..
    } = product;
    let panel = PANEL as i64;
    let (x, out) = (&views[0], &views[views.len() - 1]);
    if let Codec::Plain(dtype) = product.rows
        && dtype != x.dtype
    {
        return Err(format!("reads rows of {} as {dtype}", x.dtype));
    }
    let tile_bytes = ROWS * PANELS * PANEL as i64 * 4;
    let tiles_bytes = SCRATCH_BYTES as i64 - SPARE_BYTES;
    if weights as i64 * tile_bytes > tiles_bytes {
        return Err(format!(
            "{weights} weights need more than {tiles_bytes} bytes of scratch memory"
        ));
    }
    let depth = x.shape[1].known().ok_or("symbolic inner axis")?;
    let panel_bytes = product.codec.panel(depth as usize) as i64;
    let panels = (columns + panel - 1) / panel;
    let groups = (panels + PANELS - 1) / PANELS;
    let bases: Vec<Value> = (0..views.len()).map(|i| f.operand(i)).collect();
    let rows = f.dim(&x.shape[0])?;
    let scratch = f.scratch();
    let round = f.add(rows, ROWS - 1);
    let block = f.int(ROWS);
    let blocks = f.b.ins().udiv(round, block);
    // The product itself, whole panels: no tile in between.
    let identity = body.outputs[0] == body.inputs()[0] && out.dtype == DType::F32;
    let direct = weights == 1 && identity && columns % panel == 0;
    let element = out.dtype.bytes() as i64;
    let (begin, end) = (f.begin, f.end);
    f.repeat(begin, end, 1, &[], |f, task, _| {
        let group = f.b.ins().udiv(task, blocks);
        let used = f.b.ins().imul(group, blocks);
        let row_block = f.b.ins().isub(task, used);
        let row = f.scale(row_block, ROWS);
        let left = f.b.ins().isub(rows, row);
        let m = f.min(left, block);
        let first_panel = f.scale(group, PANELS);
        let panel_count = if panels % PANELS == 0 {
            f.int(PANELS)
        } else {
            let all = f.int(panels);
            let left = f.b.ins().isub(all, first_panel);
            let most = f.int(PANELS);
            f.min(left, most)
        };
        let row_bytes = match product.rows {
            Codec::Plain(dtype) => x.strides[0] * dtype.bytes() as i64,
            codec => codec.row(depth as usize) as i64,
        };
        let a = f.offset(bases[0], row, row_bytes);
        let column = f.scale(first_panel, panel);
        // Products with groups are told the size of a group, and count rows in bytes.
        let mut shape = vec![m, f.int(depth)];
        shape.extend(shared.map(|g| f.int(g.into())));
        let lda = f.int(if shared.is_some() {
            row_bytes
        } else {
            x.strides[0]
        });
        let out_row = f.offset(bases[views.len() - 1], row, element * columns);
        let out_tile = f.offset(out_row, column, element);
        let tile_stride = PANELS * panel;
        for w in 0..weights {
            let b = f.offset(bases[1 + w], first_panel, panel_bytes);
            let (c, ldc) = if direct {
                (out_tile, f.int(columns))
            } else {
                (f.add(scratch, w as i64 * tile_bytes), f.int(tile_stride))
            };
            let args = [&shape[..], &[a, lda, b, panel_count, c, ldc]].concat();
            f.call(slot, &args, None);
        }
        if direct {
            return Ok(vec![]);
        }
        let width = if columns % tile_stride == 0 {
            Columns::Known(tile_stride)
        } else {
            let all = f.int(columns);
            let left = f.b.ins().isub(all, column);
            let most = f.int(tile_stride);
            Columns::Dynamic(f.min(left, most))
        };
        let zero = f.int(0);
        f.repeat(zero, m, 1, &[], |f, r, _| {
            let at = f.b.ins().iadd(row, r);
            let mut sources = HashMap::new();
            for (i, input) in body.inputs().iter().enumerate() {
                let source = if i < weights {
                    let start = f.add(scratch, i as i64 * tile_bytes);
                    Row {
                        address: f.offset(start, r, 4 * tile_stride),
                        dtype: DType::F32,
                        stride: 1,
                    }
                } else {
                    let operand = i + 1;
                    let view = &views[operand];
                    let bytes = view.dtype.bytes() as i64;
                    let (down, across) = match view.strides[..] {
                        [down, across] => (down, across),
                        _ => return Err(format!("{view:?} is no matrix")),
                    };
                    let address = f.offset(bases[operand], at, down * bytes);
                    let across = if view.shape[1].known() == Some(1) {
                        0
                    } else {
                        across
                    };
                    Row {
                        address: f.offset(address, column, across * bytes),
                        dtype: view.dtype,
                        stride: across,
                    }
                };
                sources.insert(*input, source);
            }
            let target = Row {
                address: f.offset(out_tile, r, element * columns),
                dtype: out.dtype,
                stride: 1,
            };
            let spare = Spare {
                address: f.add(scratch, tiles_bytes),
                bytes: SPARE_BYTES,
                part: Some((width, tile_stride)),
            };
            let mut row = RowBody::new(body, sources, false).with(spare);
            row.store(f, target, width)?;
            Ok(vec![])
        })?;
        Ok(vec![])
    })?;
    let bytes = PANELS * panel_bytes * weights as i64;
    let tasks = Tasks {
        rows: x.shape[0].clone(),
        rows_per_task: ROWS as u64,
        columns: groups as u64,
    };
    Ok((tasks, (GRAIN_BYTES / bytes.max(1)).max(1) as u64))
}
