//! Integers that share scales, on their way from what says them (`fake_quantize`, `dequantize`) to the panels that kernels
//! read. The integers are never computed twice: what a method chose is what is stored.

use super::{Array, FoldError};
use crate::schedule::Packing;
use half::f16;
use ir::{
    DType, Op,
    abi::{Codec, PANEL, STRIP},
};
use rayon::prelude::*;

/// Codes with their scales.
#[derive(Clone, Debug)]
pub(super) struct Groups<'a> {
    bits: u8,
    group: usize,
    /// The axis along which groups lie.
    axis: usize,
    /// i8.
    codes: Array<'a>,
    /// f16; `axis` is shorter by the size of a group.
    scales: Array<'a>,
}

/// The largest code of so many bits.
pub fn most(bits: u8) -> f32 {
    f32::from((1i16 << (bits - 1)) - 1)
}

/// The code nearest to `x`; 0 where the scale is.
pub fn code(x: f32, scale: f32, most: f32) -> i8 {
    match scale > 0.0 {
        true => (x / scale).round_ties_even().clamp(-most, most) as i8,
        false => 0,
    }
}

/// Rows rounded to the nearest codes, with a scale of `max |x| / most`, rounded to f16, for each `group` elements: as
/// [`ir::ops::FakeQuantize`] with scales of f16 says.
pub fn round(rows: &[f32], bits: u8, group: usize) -> (Vec<i8>, Vec<f16>) {
    let most = most(bits);
    let mut codes = vec![0; rows.len()];
    let groups = rows.par_chunks(group).zip(codes.par_chunks_mut(group));
    let scales = groups.map(|(xs, codes)| {
        let peak = xs.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
        // Codes are of what is stored.
        let scale = f16::from_f32(peak / most);
        for (to, x) in codes.iter_mut().zip(xs) {
            *to = code(*x, scale.to_f32(), most);
        }
        scale
    });
    let scales = scales.collect();
    (codes, scales)
}

impl<'a> Groups<'a> {
    /// What the op says of its arguments; `None` for ops that say no codes with scales of f16.
    pub(super) fn of(op: &Op, args: &[Array<'a>]) -> Option<Groups<'a>> {
        match (op, args) {
            (Op::FakeQuantize(q), [x]) if q.scale == DType::F16 => {
                let (bits, group) = (u8::try_from(q.bits).ok()?, usize::try_from(q.group).ok()?);
                let wide = x.pack(DType::F32, Packing::Rows);
                let wide = wide.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
                let (codes, scales) = round(&wide.collect::<Vec<_>>(), bits, group);
                let codes: Vec<u8> = codes.into_iter().map(|c| c as u8).collect();
                let scales: Vec<u8> = scales.into_iter().flat_map(f16::to_le_bytes).collect();
                let mut grouped = x.shape.clone();
                *grouped.last_mut()? /= group;
                Some(Groups {
                    bits,
                    group,
                    axis: x.shape.len() - 1,
                    codes: Array::new(DType::I8, &x.shape, codes),
                    scales: Array::new(DType::F16, &grouped, scales),
                })
            }
            (Op::Dequantize(d), [codes, scales]) if scales.dtype == DType::F16 => Some(Groups {
                bits: u8::try_from(d.bits).ok()?,
                group: usize::try_from(d.group).ok()?,
                axis: codes.shape.len().checked_sub(1)?,
                codes: codes.clone(),
                scales: scales.clone(),
            }),
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
        Some(Groups {
            axis,
            codes: self.codes.relayout(op, out)?,
            scales: self.scales.relayout(op, &self.grouped(out, axis))?,
            ..*self
        })
    }

    /// One after another along an axis that groups do not lie along; `None` where they are not of one kind.
    pub(super) fn join(parts: &[Groups<'a>], axis: usize, out: &[usize]) -> Option<Groups<'a>> {
        let first = parts.first()?;
        let kind = |g: &Groups| (g.bits, g.group, g.axis);
        if axis == first.axis || parts.iter().any(|p| kind(p) != kind(first)) {
            return None;
        }
        let codes: Vec<Array> = parts.iter().map(|p| p.codes.clone()).collect();
        let scales: Vec<Array> = parts.iter().map(|p| p.scales.clone()).collect();
        Some(Groups {
            codes: Array::join(&codes, axis, out),
            scales: Array::join(&scales, axis, &first.grouped(out, first.axis)),
            ..*first
        })
    }

    /// Shape of the scales of codes of that shape.
    fn grouped(&self, shape: &[usize], axis: usize) -> Vec<usize> {
        let mut grouped = shape.to_vec();
        grouped[axis] /= self.group;
        grouped
    }

    /// What they stand for, as f32: exact.
    pub(super) fn decode(&self) -> Array<'static> {
        let mut index = vec![0; self.codes.shape.len()];
        let count = self.codes.shape.iter().product::<usize>();
        let mut bytes = Vec::with_capacity(count * 4);
        for _ in 0..count {
            let code = self.codes.get(&index);
            let along = index[self.axis];
            index[self.axis] /= self.group;
            let scale = self.scales.get(&index);
            index[self.axis] = along;
            bytes.extend_from_slice(&(code * scale).to_le_bytes());
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
            bits: self.bits,
            group: self.group as u32,
        };
        if codec != held || self.axis != 0 || self.codes.shape.len() != 2 {
            return Err(FoldError::Groups {
                found: format!("integers {held} along axis {}", self.axis),
                wanted: codec,
            });
        }
        match packing {
            Packing::Cells => self.cells(codec),
            _ => self.panels(codec),
        }
    }

    /// The code in row `k` of column `j`.
    pub(super) fn code(&self, k: usize, j: usize) -> Result<i8, FoldError> {
        let [code] = self.codes.bytes_at::<1>(&[k, j]);
        let (code, most) = (code as i8, most(self.bits) as i8);
        match (-most..=most).contains(&code) {
            true => Ok(code),
            false => Err(FoldError::Code {
                code,
                bits: self.bits,
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
        let bits = usize::from(self.bits);
        let (strip, rows) = (STRIP * codec.panel(k), 32 / bits);
        let mut out = vec![0u8; codec.panels(n) * codec.panel(k)];
        let strips = out.par_chunks_mut(strip.max(1));
        strips.enumerate().try_for_each(|(s, strip)| {
            let groups = strip.chunks_mut(STRIP * PANEL * (2 + group * bits / 8));
            for (g, bytes) in groups.enumerate() {
                let (scales, codes) = bytes.split_at_mut(STRIP * PANEL * 2);
                let columns = (0..STRIP * PANEL).filter(|c| s * STRIP * PANEL + c < n);
                for column in columns {
                    let (p, j, at) = (column / PANEL, column % PANEL, s * STRIP * PANEL + column);
                    scales[column * 2..][..2].copy_from_slice(&self.scale(g, at));
                    for i in 0..group {
                        let code = self.code(g * group + i, at)?;
                        let byte = &mut codes[(i / rows * STRIP + p) * 64 + 4 * j + i % 4];
                        *byte |= match (bits, i % rows) {
                            (8, _) => (code as u8).wrapping_add(128),
                            (_, 0..4) => (code + 8) as u8,
                            _ => ((code + 8) as u8) << 4,
                        };
                    }
                }
            }
            Ok::<_, FoldError>(())
        })?;
        Ok(out)
    }
}
