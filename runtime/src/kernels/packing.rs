//! Keys and values that lie in rows, packed as attention's tiles read them. Knows neither scores nor intervals.

use super::attention::KEYS;
use super::lanes::Lanes;
use super::weight::Weight;
use ir::abi::PANEL;

/// `width` key rows as panels `[dim][PANEL]` of columns, the last padded with zeros.
///
/// # Safety
/// `from` is valid for the rows, `to` for `ceil(width / PANEL)` panels; features as [`Lanes`].
#[inline(always)]
pub(super) unsafe fn pack_keys<V: Lanes, W: Weight>(
    from: *const W,
    stride: usize,
    width: usize,
    dim: usize,
    to: *mut W,
) {
    // SAFETY: all indices below are inside the extents.
    unsafe {
        for j in (0..width.next_multiple_of(PANEL)).step_by(8) {
            let column = to.add(j / PANEL * dim * PANEL + j % PANEL);
            let row = from.wrapping_add(j * stride);
            let transposed = if j + 8 <= width { dim / 8 * 8 } else { 0 };
            for d in (0..transposed).step_by(8) {
                W::transpose8::<V>(row.add(d), stride, column.add(d * PANEL));
            }
            for i in 0..8 {
                for d in transposed..dim {
                    *column.add(d * PANEL + i) = if j + i < width {
                        *row.add(i * stride + d)
                    } else {
                        W::default()
                    };
                }
            }
        }
    }
}

/// `width` value rows as panels `[KEYS][PANEL]`, the last padded with zeros.
///
/// # Safety
/// `from` is valid for the rows, `to` for `ceil(dim / PANEL)` panels.
#[inline(always)]
pub(super) unsafe fn pack_rows<W: Weight>(
    from: *const W,
    stride: usize,
    width: usize,
    dim: usize,
    to: *mut W,
) {
    // SAFETY: all indices below are inside the extents.
    unsafe {
        for d in (0..dim).step_by(PANEL) {
            let n = PANEL.min(dim - d);
            for j in 0..width {
                let line = to.add((d / PANEL * KEYS + j) * PANEL);
                if n == PANEL {
                    line.cast::<[W; PANEL]>().write(
                        from.add(j * stride + d)
                            .cast::<[W; PANEL]>()
                            .read_unaligned(),
                    );
                } else {
                    std::ptr::copy_nonoverlapping(from.add(j * stride + d), line, n);
                    std::ptr::write_bytes(line.add(n), 0, PANEL - n);
                }
            }
        }
    }
}
