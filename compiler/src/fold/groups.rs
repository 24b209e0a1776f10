//! Codes that share scales, on their way from what says them (`fake_quantize`, `dequantize`) to the panels that kernels
//! read. Codes are never computed twice: what a method chose is what is stored.

use super::{Array, FoldError};
use crate::schedule::Packing;
use half::f16;
use ir::{
    DType, Element, Grid, Op,
    abi::{Codec, PANEL, STRIP},
};
use rayon::prelude::*;

/// Codes with their scales and zero points.
#[derive(Clone, Debug)]
pub(super) struct Groups<'a> {
    element: Element,
    group: usize,
    /// The axis along which groups lie.
    axis: usize,
    /// i8 or i16.
    codes: Array<'a>,
    /// f16; `axis` is shorter by the size of a group.
    scales: Array<'a>,
    /// i8, as the scales; where the element has them.
    zeros: Option<Array<'a>>,
}

/// What rows are rounded to, for each `group` elements, with scales of f16: codes, scales, and zero points (0 where the element
/// has none). As [`ir::ops::FakeQuantize`] says.
pub fn round(rows: &[f32], element: Element, group: usize) -> (Vec<i16>, Vec<f16>, Vec<i8>) {
    let mut codes = vec![0; rows.len()];
    let groups = rows.par_chunks(group).zip(codes.par_chunks_mut(group));
    let shared = groups.map(|(xs, codes)| {
        // Codes are of what is stored.
        let grid = Grid::of(element, xs, DType::F16);
        grid.codes(xs, codes);
        (f16::from_f32(grid.scale), grid.zero as i8)
    });
    let (scales, zeros) = shared.unzip();
    (codes, scales, zeros)
}

/// [`round`] of an array's rows, as bytes: codes, scales, zero points. Row by row: of a large weight there is no copy in f32.
fn rounded(x: &Array, element: Element, group: usize) -> [Vec<u8>; 3] {
    let k = x.shape.last().copied().unwrap_or(1);
    let (groups, size) = (k / group, element.storage().bytes());
    let count = x.shape.iter().product::<usize>() / k.max(1);
    let mut codes = vec![0; count * k * size];
    let mut scales = vec![0; count * groups * 2];
    let mut zeros = vec![0; count * groups];
    let rows = codes.par_chunks_mut((k * size).max(1));
    let shared = scales.par_chunks_mut((groups * 2).max(1));
    let shared = shared.zip(zeros.par_chunks_mut(groups.max(1)));
    rows.zip(shared).enumerate().for_each_init(
        || (vec![0.0; k], vec![0; group]),
        |(row, said), (i, (codes, (scales, zeros)))| {
            x.widen(i, row);
            let groups = row.chunks(group).zip(codes.chunks_mut(group * size));
            let shared = scales.as_chunks_mut::<2>().0.iter_mut().zip(zeros);
            for ((xs, codes), (scale, zero)) in groups.zip(shared) {
                // Codes are of what is stored.
                let grid = Grid::of(element, xs, DType::F16);
                grid.codes(xs, said);
                match size {
                    1 => codes
                        .iter_mut()
                        .zip(&*said)
                        .for_each(|(to, c)| *to = *c as u8),
                    _ => {
                        let codes = codes.as_chunks_mut::<2>().0.iter_mut();
                        codes.zip(&*said).for_each(|(to, c)| *to = c.to_le_bytes());
                    }
                }
                (*scale, *zero) = (f16::from_f32(grid.scale).to_le_bytes(), grid.zero as u8);
            }
        },
    );
    [codes, scales, zeros]
}

/// Codes as a program holds them.
pub fn stored(codes: &[i16], element: Element) -> Vec<u8> {
    match element.storage() {
        DType::I16 => codes.iter().flat_map(|c| c.to_le_bytes()).collect(),
        _ => codes.iter().map(|c| *c as u8).collect(),
    }
}

impl<'a> Groups<'a> {
    /// What the op says of its arguments; `None` for ops that say no codes with scales of f16.
    pub(super) fn of(op: &Op, args: &[Array<'a>]) -> Option<Groups<'a>> {
        match (op, args) {
            (Op::FakeQuantize(q), [x]) if q.scale == DType::F16 => {
                let group = usize::try_from(q.group).ok()?;
                let [codes, scales, zeros] = rounded(x, q.element, group);
                let mut grouped = x.shape.clone();
                *grouped.last_mut()? /= group;
                let zeros = || Array::new(DType::I8, &grouped, zeros);
                Some(Groups {
                    element: q.element,
                    group,
                    axis: x.shape.len() - 1,
                    codes: Array::new(q.element.storage(), &x.shape, codes),
                    zeros: q.element.zero().then(zeros),
                    scales: Array::new(DType::F16, &grouped, scales),
                })
            }
            (Op::Dequantize(d), [codes, scales, zeros @ ..]) if scales.dtype == DType::F16 => {
                Some(Groups {
                    element: d.element,
                    group: usize::try_from(d.group).ok()?,
                    axis: codes.shape.len().checked_sub(1)?,
                    codes: codes.clone(),
                    scales: scales.clone(),
                    zeros: zeros.first().cloned(),
                })
            }
            _ => None,
        }
    }

    /// After an op that moves groups whole; `None` for others.
    pub(super) fn relayout(&self, op: &Op, out: &[usize]) -> Option<Groups<'a>> {
        let mut axis = self.axis;
        match op {
            Op::Transpose(t) => {
                let axes = t.axes(self.codes.shape.len())?;
                axis = axes.iter().position(|a| *a == self.axis)?;
            }
            Op::Slice(s) if usize::try_from(s.axis).ok()? != self.axis => {}
            Op::Cast(c) if c.to == DType::F32 => return Some(self.clone()),
            _ => return None,
        }
        let grouped = self.grouped(out, axis);
        Some(Groups {
            axis,
            codes: self.codes.relayout(op, out)?,
            scales: self.scales.relayout(op, &grouped)?,
            zeros: match &self.zeros {
                Some(zeros) => Some(zeros.relayout(op, &grouped)?),
                None => None,
            },
            ..*self
        })
    }

    /// One after another along an axis that groups do not lie along; `None` where they are not of one kind.
    pub(super) fn join(parts: &[Groups<'a>], axis: usize, out: &[usize]) -> Option<Groups<'a>> {
        let first = parts.first()?;
        let kind = |g: &Groups| (g.element, g.group, g.axis);
        if axis == first.axis || parts.iter().any(|p| kind(p) != kind(first)) {
            return None;
        }
        let codes: Vec<Array> = parts.iter().map(|p| p.codes.clone()).collect();
        let scales: Vec<Array> = parts.iter().map(|p| p.scales.clone()).collect();
        let zeros: Option<Vec<Array>> = parts.iter().map(|p| p.zeros.clone()).collect();
        let grouped = first.grouped(out, first.axis);
        Some(Groups {
            codes: Array::join(&codes, axis, out),
            scales: Array::join(&scales, axis, &grouped),
            zeros: zeros.map(|zeros| Array::join(&zeros, axis, &grouped)),
            ..*first
        })
    }

    /// Shape of the scales of codes of that shape.
    fn grouped(&self, shape: &[usize], axis: usize) -> Vec<usize> {
        let mut grouped = shape.to_vec();
        grouped[axis] /= self.group;
        grouped
    }

    /// What they stand for, as f32.
    pub(super) fn decode(&self) -> Array<'static> {
        let mut index = vec![0; self.codes.shape.len()];
        let count = self.codes.shape.iter().product::<usize>();
        let mut bytes = Vec::with_capacity(count * 4);
        for _ in 0..count {
            let code = self.codes.get(&index) as i32;
            let along = index[self.axis];
            index[self.axis] /= self.group;
            let scale = self.scales.get(&index);
            let zero = self.zeros.as_ref().map_or(0.0, |z| z.get(&index)) as i32;
            index[self.axis] = along;
            let value = self.element.number(code, zero) * scale;
            bytes.extend_from_slice(&value.to_le_bytes());
            for (i, n) in index.iter_mut().zip(&self.codes.shape).rev() {
                *i += 1;
                if *i < *n {
                    break;
                }
                *i = 0;
            }
        }
        Array::new(DType::F32, &self.codes.shape, bytes)
    }

    /// A matrix `[K, N]` with groups along `K`, in cells or in panels ([`Codec::panel`]).
    ///
    /// # Errors
    /// Codes beyond what the bits can say, and groups that are not as the codec says.
    pub(super) fn pack(&self, codec: Codec, packing: Packing) -> Result<Vec<u8>, FoldError> {
        let held = Codec::Grouped {
            element: self.element,
            group: self.group as u32,
        };
        if codec != held || self.axis != 0 || self.codes.shape.len() != 2 {
            return Err(FoldError::Groups {
                found: format!("codes {held} along axis {}", self.axis),
                wanted: codec,
            });
        }
        match packing {
            Packing::Cells => self.cells(codec),
            _ => self.panels(codec),
        }
    }

    /// The codes from row `k` of column `j` on, as many as there is room for.
    fn codes_of(&self, k: usize, j: usize, to: &mut [i32]) -> Result<(), FoldError> {
        let from = [k, j];
        match self.element.storage() {
            DType::I16 => {
                let codes = self.codes.along(&from, 0).map(i16::from_le_bytes);
                to.iter_mut().zip(codes).for_each(|(to, c)| *to = c.into());
            }
            _ => {
                let codes = self.codes.along(&from, 0).map(i8::from_le_bytes);
                to.iter_mut().zip(codes).for_each(|(to, c)| *to = c.into());
            }
        }
        to.iter().try_for_each(|code| self.said(*code).map(|_| ()))
    }

    /// The code in row `k` of column `j`.
    pub(super) fn code(&self, k: usize, j: usize) -> Result<i32, FoldError> {
        self.said(match self.element.storage() {
            DType::I16 => i16::from_le_bytes(self.codes.bytes_at(&[k, j])).into(),
            _ => i8::from_le_bytes(self.codes.bytes_at(&[k, j])).into(),
        })
    }

    /// The code, where the element says it.
    fn said(&self, code: i32) -> Result<i32, FoldError> {
        match self.element.says(code) {
            true => Ok(code),
            false => Err(FoldError::Code {
                code,
                element: self.element,
            }),
        }
    }

    /// The scale of group `g` of column `j`, f16.
    pub(super) fn scale(&self, g: usize, j: usize) -> [u8; 2] {
        self.scales.bytes_at::<2>(&[g, j])
    }

    /// Rows, columns, and rows of a group.
    pub(super) fn sizes(&self) -> [usize; 3] {
        [self.codes.shape[0], self.codes.shape[1], self.group]
    }

    fn panels(&self, codec: Codec) -> Result<Vec<u8>, FoldError> {
        let [k, n, group] = self.sizes();
        let (bits, excess) = (self.element.width(), self.element.excess());
        let strip = STRIP * codec.panel(k);
        let shared = STRIP * PANEL * self.element.shared();
        let planes = planes(bits);
        let mut out = vec![0u8; codec.panels(n) * codec.panel(k)];
        let strips = out.par_chunks_mut(strip.max(1));
        strips.enumerate().try_for_each(|(s, strip)| {
            let mut column_codes = vec![0; group];
            let groups = strip.chunks_mut(shared + STRIP * PANEL * group * bits / 8);
            for (g, bytes) in groups.enumerate() {
                let (shared, codes) = bytes.split_at_mut(shared);
                let (scales, points) = shared.split_at_mut(STRIP * PANEL * 2);
                let columns = (0..STRIP * PANEL).filter(|c| s * STRIP * PANEL + c < n);
                for column in columns {
                    let (p, j, at) = (column / PANEL, column % PANEL, s * STRIP * PANEL + column);
                    scales[column * 2..][..2].copy_from_slice(&self.scale(g, at));
                    if let Some(zeros) = &self.zeros {
                        points[column] = (self.said(zeros.get(&[g, at]) as i32)? + excess) as u8;
                    }
                    self.codes_of(g * group, at, &mut column_codes)?;
                    for (i, code) in column_codes.iter().enumerate() {
                        let code = (code + excess) as u32;
                        let (lines, row) = (i / 32 * bits, i % 32);
                        for plane in &planes {
                            let line = lines + plane.line(row);
                            let byte = &mut codes[(line * STRIP + p) * 64 + 4 * j + i % 4];
                            *byte |= plane.place(code, row);
                        }
                    }
                }
            }
            Ok::<_, FoldError>(())
        })?;
        Ok(out)
    }
}

/// Bits of codes that lie together, see [`Codec::panel`].
struct Plane {
    /// How many.
    width: usize,
    /// Bits below it.
    low: usize,
    /// Lines before it, of 32 rows.
    first: usize,
}

impl Plane {
    /// The line that holds its part of a row.
    fn line(&self, row: usize) -> usize {
        self.first + row * self.width / 32
    }

    /// Its part of a code, as the bits of a byte.
    fn place(&self, code: u32, row: usize) -> u8 {
        let part = code >> self.low & ((1 << self.width) - 1);
        (part << (row / 4 * self.width % 8)) as u8
    }
}

/// The planes of codes of so many bits, the widest first.
fn planes(bits: usize) -> Vec<Plane> {
    let (mut out, mut low) = (vec![], 0);
    while low < bits {
        let widths = [8, 4, 2, 1].into_iter();
        let width = widths.filter(|w| *w <= bits - low).max().unwrap_or(1);
        // A plane takes a line for each of its bits.
        out.push(Plane {
            width,
            low,
            first: low,
        });
        low += width;
    }
    out
}
