//! Strided arrays over the mapped checkpoint: layout ops are followed as strides, and an array is laid out as kernels
//! read it without being held in between. Computes nothing.

use crate::schedule::Packing;
use half::{bf16, f16};
use ir::{
    DType, Op, Tensor,
    abi::{
        Codec, PANEL,
        cuda::{Cell, DEPTH, TILE},
    },
};
use rayon::prelude::*;
use std::{borrow::Cow, sync::Arc};

/// A strided array over the bytes of a checkpoint, or over bytes made here.
#[derive(Clone, Debug)]
pub struct Array<'a> {
    /// Of the elements in `bytes`: a value of type f32 may be held narrower where that is exact.
    pub dtype: DType,
    /// Outermost first.
    pub shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    bytes: Arc<Cow<'a, [u8]>>,
}

impl<'a> Array<'a> {
    /// Row-major elements.
    pub fn new(dtype: DType, shape: &[usize], bytes: impl Into<Cow<'a, [u8]>>) -> Array<'a> {
        Array {
            dtype,
            shape: shape.to_vec(),
            strides: contiguous(shape),
            offset: 0,
            bytes: Arc::new(bytes.into()),
        }
    }

    pub(super) fn from_tensor(t: &Tensor) -> Array<'static> {
        let bytes: Vec<u8> = t
            .data
            .iter()
            .flat_map(|x| (*x as f32).to_le_bytes())
            .collect();
        Array::new(DType::F32, &t.shape, bytes)
    }

    /// Byte position of an element.
    fn at(&self, index: &[usize]) -> usize {
        let flat = index
            .iter()
            .zip(&self.strides)
            .fold(self.offset, |o, (i, s)| o + i * s);
        flat * self.dtype.bytes()
    }

    /// The bytes of an element.
    pub(super) fn bytes_at<const N: usize>(&self, index: &[usize]) -> [u8; N] {
        let at = &self.bytes[self.at(index)..];
        std::array::from_fn(|i| at[i])
    }

    pub(super) fn get(&self, index: &[usize]) -> f32 {
        self.element(&self.bytes[self.at(index)..])
    }

    /// The element that bytes begin with.
    fn element(&self, at: &[u8]) -> f32 {
        match self.dtype {
            DType::BF16 => bf16::from_le_bytes([at[0], at[1]]).to_f32(),
            DType::F16 => f16::from_le_bytes([at[0], at[1]]).to_f32(),
            DType::I32 => i32::from_le_bytes([at[0], at[1], at[2], at[3]]) as f32,
            DType::F32 => f32::from_le_bytes([at[0], at[1], at[2], at[3]]),
            DType::Bool => f32::from(at[0]),
            DType::I8 => f32::from(at[0] as i8),
            DType::I16 => f32::from(i16::from_le_bytes([at[0], at[1]])),
        }
    }

    /// Where a row of the last axis starts, in elements.
    fn start(&self, mut row: usize) -> usize {
        let lead = self.shape.len().saturating_sub(1);
        let axes = self.shape[..lead].iter().zip(&self.strides).rev();
        axes.fold(self.offset, |at, (size, stride)| {
            let index = row % size;
            row /= size;
            at + index * stride
        })
    }

    /// A row of the last axis as f32.
    pub(super) fn widen(&self, row: usize, to: &mut [f32]) {
        let (start, stride) = (self.start(row), self.strides.last().copied().unwrap_or(1));
        let row = |i: usize| (start + i * stride) * self.dtype.bytes();
        match self.dtype {
            // What checkpoints hold, without looking each time what that is.
            DType::BF16 => {
                for (i, to) in to.iter_mut().enumerate() {
                    let at = row(i);
                    *to = bf16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]).to_f32();
                }
            }
            _ => {
                for (i, to) in to.iter_mut().enumerate() {
                    *to = self.element(&self.bytes[row(i)..]);
                }
            }
        }
    }

    /// Some rows of the last axis, one after another.
    pub(super) fn rows(&self, rows: &[usize]) -> Vec<f32> {
        let columns = self.shape.last().copied().unwrap_or(1);
        let mut out = vec![0.0; rows.len() * columns];
        let each = out.par_chunks_mut(columns.max(1)).zip(rows);
        each.for_each(|(to, row)| self.widen(*row, to));
        out
    }

    /// The bytes of the elements after one another along an axis, from one of them.
    pub(super) fn along<const N: usize>(
        &self,
        from: &[usize],
        axis: usize,
    ) -> impl Iterator<Item = [u8; N]> {
        let bytes = self.bytes[self.at(from)..].as_chunks::<N>().0;
        let count = self.shape[axis] - from[axis];
        bytes
            .iter()
            .step_by(self.strides[axis].max(1))
            .take(count)
            .copied()
    }

    /// Its elements as the interpreter holds them.
    pub fn to_tensor(&self) -> Tensor {
        Tensor::from_fn(&self.shape, |i| f64::from(self.get(i)))
    }

    /// The elements as `dtype`; a `[K, N]` matrix in panels or columns is padded with zeros.
    pub fn pack(&self, dtype: DType, packing: Packing) -> Vec<u8> {
        let codec = Codec::Plain(dtype);
        match (self.dtype, dtype) {
            (DType::BF16, DType::F32) => self.lay_out(packing, codec, |x| {
                bf16::from_le_bytes(x).to_f32().to_le_bytes()
            }),
            (DType::F16, DType::F32) => self.lay_out(packing, codec, |x| {
                f16::from_le_bytes(x).to_f32().to_le_bytes()
            }),
            (DType::F32, DType::BF16) => self.lay_out(packing, codec, |x| {
                bf16::from_f32(f32::from_le_bytes(x)).to_le_bytes()
            }),
            (DType::F32, DType::F16) => self.lay_out(packing, codec, |x| {
                f16::from_f32(f32::from_le_bytes(x)).to_le_bytes()
            }),
            (DType::BF16, DType::F16) => self.lay_out(packing, codec, |x| {
                f16::from_f32(bf16::from_le_bytes(x).to_f32()).to_le_bytes()
            }),
            (DType::F16, DType::BF16) => self.lay_out(packing, codec, |x| {
                bf16::from_f32(f16::from_le_bytes(x).to_f32()).to_le_bytes()
            }),
            (DType::F32, DType::I8) => self.lay_out(packing, codec, |x| {
                (f32::from_le_bytes(x) as i8).to_le_bytes()
            }),
            (DType::F32, DType::I16) => self.lay_out(packing, codec, |x| {
                (f32::from_le_bytes(x) as i16).to_le_bytes()
            }),
            (from, _) => match from.bytes() {
                1 => self.lay_out(packing, codec, |x: [u8; 1]| x),
                2 => self.lay_out(packing, codec, |x: [u8; 2]| x),
                _ => self.lay_out(packing, codec, |x: [u8; 4]| x),
            },
        }
    }

    /// Converts each element and writes it where the layout wants it.
    fn lay_out<const FROM: usize, const TO: usize>(
        &self,
        packing: Packing,
        codec: Codec,
        convert: impl Fn([u8; FROM]) -> [u8; TO] + Sync,
    ) -> Vec<u8> {
        let element = |flat: usize| {
            let bytes = &self.bytes[flat * FROM..][..FROM];
            convert(std::array::from_fn(|i| bytes[i]))
        };
        let (lead, n) = match &self.shape[..] {
            [lead @ .., n] => (lead, *n),
            [] => (&[][..], 1),
        };
        let stride = self.strides.last().copied().unwrap_or(1);
        let rows: usize = lead.iter().product();
        let start = |row: usize| self.start(row);
        match packing {
            Packing::Rows => {
                let mut out = vec![0; rows * n * TO];
                out.par_chunks_mut((n * TO).max(1))
                    .enumerate()
                    .for_each(|(r, row)| {
                        let start = start(r);
                        for (j, to) in row.as_chunks_mut::<TO>().0.iter_mut().enumerate() {
                            *to = element(start + j * stride);
                        }
                    });
                out
            }
            Packing::Panels => {
                let (most, depth) = (codec.strip() * PANEL, codec.depth());
                let padded = rows.next_multiple_of(depth);
                let mut out = vec![0; n.next_multiple_of(PANEL) * padded * TO];
                let strips = out.par_chunks_mut((padded * most * TO).max(1)).enumerate();
                strips.for_each(|(s, strip)| {
                    let wide = most.min((n - s * most).next_multiple_of(PANEL));
                    let columns = wide.min(n - s * most);
                    let strip = strip.as_chunks_mut::<TO>().0;
                    for k in 0..rows {
                        let start = start(k) + s * most * stride;
                        let line = &mut strip[k / depth * depth * wide..][..depth * wide];
                        let row = line[k % depth..].iter_mut().step_by(depth);
                        for (j, to) in row.take(columns).enumerate() {
                            *to = element(start + j * stride);
                        }
                    }
                });
                out
            }
            Packing::Columns => {
                let padded = rows.max(1).next_multiple_of(DEPTH);
                let mut out = vec![0; n * padded * TO];
                let columns = out.par_chunks_mut(padded * TO).enumerate();
                columns.for_each(|(j, column)| {
                    let column = column.as_chunks_mut::<TO>().0;
                    for (k, to) in column[..rows].iter_mut().enumerate() {
                        *to = element(start(k) + j * stride);
                    }
                });
                out
            }
            Packing::Cells => {
                let cell = Cell::of(Codec::Plain(DType::BF16)).expect("bf16 lies in cells");
                let cells = rows.max(1).div_ceil(cell.depth);
                let mut out = vec![0; n.div_ceil(TILE) * cells * cell.bytes()];
                let tiles = out.par_chunks_mut(cells * cell.bytes()).enumerate();
                tiles.for_each(|(tile, bytes)| {
                    let eights = bytes.as_chunks_mut::<TO>().0.chunks_mut(8).enumerate();
                    for (i, eight) in eights {
                        let (j, k) = (tile * TILE + i % TILE, i / TILE * 8);
                        let inside = if j < n {
                            rows.saturating_sub(k).min(8)
                        } else {
                            0
                        };
                        for (e, to) in eight[..inside].iter_mut().enumerate() {
                            *to = element(start(k + e) + j * stride);
                        }
                    }
                });
                out
            }
        }
    }

    /// The array after a layout op, where strides can say it; otherwise a row-major copy is made first.
    pub(super) fn relayout(&self, op: &Op, out: &[usize]) -> Option<Array<'a>> {
        let mut view = self.clone();
        match op {
            Op::Cast(c) if c.to == DType::F32 && self.dtype.is_float() => {}
            Op::Cast(c) if c.to.is_float() && self.dtype.is_float() => {
                let rounded = self.pack(c.to, Packing::Rows);
                view = Array::new(c.to, &self.shape, rounded);
            }
            Op::Transpose(t) => {
                let axes = t.axes(self.shape.len())?;
                view.strides = axes.iter().map(|a| self.strides[*a]).collect();
            }
            Op::Slice(s) => {
                view.offset +=
                    usize::try_from(s.start).ok()? * self.strides[usize::try_from(s.axis).ok()?];
            }
            Op::Reshape(_) => {
                if self.strides != contiguous(&self.shape) {
                    let packed = self.pack(self.dtype, Packing::Rows);
                    view = Array::new(self.dtype, &self.shape, packed);
                }
                view.strides = contiguous(out);
            }
            _ => return None,
        }
        view.shape = out.to_vec();
        Some(view)
    }

    /// Arrays of one type, one after another along an axis.
    pub(super) fn join(parts: &[Array<'a>], axis: usize, out: &[usize]) -> Array<'a> {
        let same = parts.iter().all(|p| p.dtype == parts[0].dtype);
        let dtype = if same { parts[0].dtype } else { DType::F32 };
        let outer: usize = out[..axis].iter().product();
        let packed: Vec<(Vec<u8>, usize)> = parts
            .iter()
            .map(|p| {
                let row = p.shape[axis..].iter().product::<usize>() * dtype.bytes();
                (p.pack(dtype, Packing::Rows), row)
            })
            .collect();
        let mut bytes = Vec::with_capacity(out.iter().product::<usize>() * dtype.bytes());
        for o in 0..outer {
            for (part, row) in &packed {
                bytes.extend_from_slice(&part[o * row..(o + 1) * row]);
            }
        }
        Array::new(dtype, out, bytes)
    }
}

fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_rows_padded_with_zeros() {
        let t = Tensor::from_fn(&[3, 5], |i| (i[0] * 100 + i[1]) as f64);
        let packed = Array::from_tensor(&t).pack(DType::F32, Packing::Columns);
        let (floats, _) = packed.as_chunks();
        let got: Vec<f32> = floats.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(got.len(), 5 * DEPTH);
        for (j, column) in got.chunks(DEPTH).enumerate() {
            let j = j as f32;
            assert_eq!(column[..3], [j, 100.0 + j, 200.0 + j]);
            assert!(column[3..].iter().all(|x| *x == 0.0), "{column:?}");
        }
    }

    #[test]
    fn panels_hold_columns_side_by_side_and_pad_with_zeros() {
        // Rows by 85 columns, six panels: of 16 bits a strip of four and one of two; of bf16 rows in pairs.
        let t = Tensor::from_fn(&[3, 85], |i| (i[0] * 85 + i[1]) as f64);
        let check = |dtype: DType, [p, k, j]: [usize; 3], at: usize| {
            let packed = Array::from_tensor(&t).pack(dtype, Packing::Panels);
            let rows = if dtype == DType::BF16 { 4 } else { 3 };
            let wide = Array::new(dtype, &[6 * rows * PANEL], packed);
            let wide = wide.pack(DType::F32, Packing::Rows);
            let got = wide.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            let column = p * PANEL + j;
            let want = if column < 85 {
                (k * 85 + column) as f32
            } else {
                0.0
            };
            assert_eq!(
                got.collect::<Vec<_>>()[at],
                want,
                "{dtype}: panel {p}, row {k}, column {j}"
            );
        };
        for [p, k, j] in [
            [0, 0, 0],
            [0, 2, 15],
            [3, 1, 7],
            [4, 0, 3],
            [5, 1, 4],
            [5, 2, 5],
        ] {
            check(DType::F32, [p, k, j], (p * 3 + k) * PANEL + j);
            let [before, wide, p_in] = if p < 4 { [0, 4, p] } else { [4, 2, p - 4] };
            let line = |rows: usize, row: usize| (before * rows + row * wide + p_in) * PANEL + j;
            check(DType::F16, [p, k, j], line(3, k));
            check(DType::BF16, [p, k, j], 2 * line(2, k / 2) + k % 2);
        }
    }
}
