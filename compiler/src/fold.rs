//! Computes weights-only terms at compile time and lays them out as kernels read them. Layout ops are followed as
//! strides over the mapped checkpoint, so that a weight which is only cast, transposed or joined is read once and
//! never held as f32. Arithmetic is done in f64 and rounded once.

use crate::schedule::{Packing, WeightTerm};
use half::{bf16, f16};
use ir::{
    DType, EvalError, Graph, Node, Op, Tensor, Type, TypeError, Value,
    abi::{Codec, PANEL, STRIP, cuda::DEPTH},
};
use rayon::prelude::*;
use std::{borrow::Cow, collections::HashMap};

/// A strided array over the bytes of a checkpoint, or over bytes made here.
#[derive(Clone, Debug)]
pub struct Array<'a> {
    /// Of the elements in `bytes`: a value of type f32 may be held narrower where that is exact.
    pub dtype: DType,
    /// Outermost first.
    pub shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    bytes: Cow<'a, [u8]>,
}

/// Why a weight cannot be computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FoldError {
    /// An expansion does not type-check.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A term has no value.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A term whose size is not known at compile time.
    #[error("weight of type {0} has no size at compile time")]
    Symbolic(Type),
}

impl<'a> Array<'a> {
    /// Row-major elements.
    pub fn new(dtype: DType, shape: &[usize], bytes: impl Into<Cow<'a, [u8]>>) -> Array<'a> {
        Array {
            dtype,
            shape: shape.to_vec(),
            strides: contiguous(shape),
            offset: 0,
            bytes: bytes.into(),
        }
    }

    fn from_tensor(t: &Tensor) -> Array<'static> {
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

    fn get(&self, index: &[usize]) -> f32 {
        let at = &self.bytes[self.at(index)..];
        match self.dtype {
            DType::BF16 => bf16::from_le_bytes([at[0], at[1]]).to_f32(),
            DType::F16 => f16::from_le_bytes([at[0], at[1]]).to_f32(),
            DType::I32 => i32::from_le_bytes([at[0], at[1], at[2], at[3]]) as f32,
            DType::F32 => f32::from_le_bytes([at[0], at[1], at[2], at[3]]),
            DType::Bool => f32::from(at[0]),
        }
    }

    fn to_tensor(&self) -> Tensor {
        Tensor::from_fn(&self.shape, |i| f64::from(self.get(i)))
    }

    /// The elements as `dtype`; a `[K, N]` matrix in panels or columns is padded with zeros.
    pub fn pack(&self, dtype: DType, packing: Packing) -> Vec<u8> {
        let strip = Codec::Plain(dtype).strip();
        match (self.dtype, dtype) {
            (DType::BF16, DType::F32) => self.lay_out(packing, strip, |x| {
                bf16::from_le_bytes(x).to_f32().to_le_bytes()
            }),
            (DType::F16, DType::F32) => self.lay_out(packing, strip, |x| {
                f16::from_le_bytes(x).to_f32().to_le_bytes()
            }),
            (DType::F32, DType::BF16) => self.lay_out(packing, strip, |x| {
                bf16::from_f32(f32::from_le_bytes(x)).to_le_bytes()
            }),
            (DType::F32, DType::F16) => self.lay_out(packing, strip, |x| {
                f16::from_f32(f32::from_le_bytes(x)).to_le_bytes()
            }),
            (DType::BF16, DType::F16) => self.lay_out(packing, strip, |x| {
                f16::from_f32(bf16::from_le_bytes(x).to_f32()).to_le_bytes()
            }),
            (DType::F16, DType::BF16) => self.lay_out(packing, strip, |x| {
                bf16::from_f32(f16::from_le_bytes(x).to_f32()).to_le_bytes()
            }),
            (from, _) => match from.bytes() {
                1 => self.lay_out(packing, strip, |x: [u8; 1]| x),
                2 => self.lay_out(packing, strip, |x: [u8; 2]| x),
                _ => self.lay_out(packing, strip, |x: [u8; 4]| x),
            },
        }
    }

    /// Converts each element and writes it where the layout wants it; panels in strips of `strip`.
    fn lay_out<const FROM: usize, const TO: usize>(
        &self,
        packing: Packing,
        strip: usize,
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
        // Where each row starts.
        let start = |mut row: usize| {
            let axes = lead.iter().zip(&self.strides).rev();
            axes.fold(self.offset, |at, (size, stride)| {
                let index = row % size;
                row /= size;
                at + index * stride
            })
        };
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
                let most = strip * PANEL;
                let mut out = vec![0; n.next_multiple_of(PANEL) * rows * TO];
                let strips = out.par_chunks_mut((rows * most * TO).max(1)).enumerate();
                strips.for_each(|(s, strip)| {
                    let wide = most.min((n - s * most).next_multiple_of(PANEL));
                    let columns = wide.min(n - s * most);
                    let rows = strip.as_chunks_mut::<TO>().0.chunks_mut(wide);
                    for (k, row) in rows.enumerate() {
                        let start = start(k) + s * most * stride;
                        for (j, to) in row[..columns].iter_mut().enumerate() {
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
        }
    }

    /// A matrix `[K, N]` rounded to integers in groups along `K`, in panels as [`Codec::panel`] says.
    fn pack_groups(&self, codec: Codec) -> Vec<u8> {
        let Codec::Grouped { bits, group } = codec else {
            return vec![];
        };
        let wide = self.pack(DType::F32, Packing::Panels);
        let (k, n, group) = (self.shape[0], self.shape[1], group as usize);
        let (bits, most) = (usize::from(bits), if bits == 8 { 127.0f32 } else { 7.0 });
        let (strip, rows) = (STRIP * codec.panel(k), 32 / bits);
        let mut out = vec![0u8; codec.panels(n) * codec.panel(k)];
        let strips = out.par_chunks_mut(strip.max(1));
        strips.enumerate().for_each(|(s, strip)| {
            let groups = strip.chunks_mut(STRIP * PANEL * (2 + group * bits / 8));
            for (g, bytes) in groups.enumerate() {
                let (scales, codes) = bytes.split_at_mut(STRIP * PANEL * 2);
                let columns = (0..STRIP * PANEL).filter(|c| s * STRIP * PANEL + c < n);
                for column in columns {
                    let (p, j) = (column / PANEL, column % PANEL);
                    let at = |row: usize| {
                        let at = (((s * STRIP + p) * k + row) * PANEL + j) * 4;
                        f32::from_le_bytes([wide[at], wide[at + 1], wide[at + 2], wide[at + 3]])
                    };
                    let members = g * group..(g + 1) * group;
                    let peak = members.clone().map(|r| at(r).abs()).fold(0.0, f32::max);
                    // The scale is stored as f16, and codes are of what is stored.
                    let scale = f16::from_f32(peak / most);
                    scales[column * 2..][..2].copy_from_slice(&scale.to_le_bytes());
                    let scale = scale.to_f32();
                    for (i, row) in members.enumerate() {
                        let code = match scale > 0.0 {
                            true => (at(row) / scale).round_ties_even().clamp(-most, most),
                            false => 0.0,
                        };
                        let byte = &mut codes[(i / rows * STRIP + p) * 64 + 4 * j + i % 4];
                        *byte |= match (bits, i % rows) {
                            (8, _) => (code + 128.0) as u8,
                            (_, 0..4) => (code + 8.0) as u8,
                            _ => ((code + 8.0) as u8) << 4,
                        };
                    }
                }
            }
        });
        out
    }

    /// The array after a layout op, where strides can say it; otherwise a row-major copy is made first.
    fn relayout(&self, op: &Op, out: &[usize]) -> Option<Array<'a>> {
        let mut view = self.clone();
        match op {
            Op::Cast(c) if c.to == DType::F32 && self.dtype.is_float() => {}
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
    fn join(parts: &[Array<'a>], axis: usize, out: &[usize]) -> Array<'a> {
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

/// The weights-only part of a graph, lowered once and evaluated for each call.
pub struct Fold {
    graph: Graph,
    terms: Vec<WeightTerm>,
}

impl Fold {
    /// Prepares a graph's terms.
    ///
    /// # Errors
    /// When an expansion does not type-check.
    pub fn new(graph: &Graph, terms: &[WeightTerm]) -> Result<Fold, FoldError> {
        let mut part = graph.clone();
        part.outputs = terms.iter().map(|t| t.value).collect();
        Ok(Fold {
            graph: part.lower(|_| false)?,
            terms: terms.to_vec(),
        })
    }

    /// Positions of the graph inputs that a term depends on.
    pub fn depends(&self, term: usize) -> Vec<usize> {
        let cone = self.graph.cone(&[self.graph.outputs[term]]);
        let position = |v: &Value| self.graph.inputs().iter().position(|i| i == v);
        cone.iter().filter_map(position).collect()
    }

    /// A term's bytes, as kernels read them. `input` gives the array of a graph input, by position.
    ///
    /// # Errors
    /// See [`FoldError`].
    pub fn term<'a>(
        &self,
        term: usize,
        input: &dyn Fn(usize) -> Array<'a>,
    ) -> Result<Vec<u8>, FoldError> {
        let root = self.graph.outputs[term];
        let grouped = matches!(self.terms[term].codec, Codec::Grouped { .. });
        let mut arrays: HashMap<Value, Array<'a>> = HashMap::new();
        for v in self.graph.cone(&[root]) {
            let array = match self.graph.node(v) {
                Node::Input { .. } => {
                    let position = self.graph.inputs().iter().position(|i| *i == v);
                    input(position.expect("an input is among the inputs"))
                }
                // What rounds to groups does so as it is packed.
                Node::Op {
                    op: Op::FakeQuantize(_),
                    args,
                } if grouped => arrays[&args[0]].clone(),
                Node::Op { op, args } => {
                    let args: Vec<Array> = args.iter().map(|a| arrays[a].clone()).collect();
                    self.evaluate(v, op, &args)?
                }
            };
            arrays.insert(v, array);
        }
        let WeightTerm { codec, packing, .. } = self.terms[term];
        match codec {
            Codec::Plain(dtype) => Ok(arrays[&root].pack(dtype, packing)),
            Codec::Grouped { .. } => Ok(arrays[&root].pack_groups(codec)),
        }
    }

    fn evaluate<'a>(&self, v: Value, op: &Op, args: &[Array<'a>]) -> Result<Array<'a>, FoldError> {
        let ty = self.graph.ty(v);
        let shape: Option<Vec<usize>> = ty.shape.iter().map(ir::Dim::size).collect();
        let shape = shape.ok_or_else(|| FoldError::Symbolic(ty.clone()))?;
        if let [x] = args
            && let Some(view) = x.relayout(op, &shape)
        {
            return Ok(view);
        }
        if let Op::Concat(c) = op {
            return Ok(Array::join(
                args,
                usize::try_from(c.axis).unwrap_or(0),
                &shape,
            ));
        }
        let tensors: Vec<Tensor> = args.iter().map(Array::to_tensor).collect();
        Ok(Array::from_tensor(&op.eval(&tensors, &shape)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::{Role, ops};

    /// A term evaluated in a few ways must agree with the reference interpreter.
    #[test]
    fn terms_equal_the_interpreter() {
        let mut g = Graph::new();
        let ty = |shape: [usize; 2]| Type::new(DType::BF16, shape);
        let a = g.input("a", Role::Weight, ty([20, 3]));
        let b = g.input("b", Role::Weight, ty([5, 3]));
        let gain = g.input("gain", Role::Weight, Type::new(DType::F32, [3usize]));
        let mut add = |op: Op, args: &[Value]| g.add(op, args).expect("types check");
        let both = add(ops::Concat { axis: 0 }.into(), &[a, b]);
        let wide = add(ops::Cast { to: DType::F32 }.into(), &[both]);
        let scaled = add(ops::Mul.into(), &[wide, gain]);
        let turned = add(
            ops::Transpose {
                perm: vec![1.into(), 0.into()],
            }
            .into(),
            &[scaled],
        );
        let flat = add(
            ops::Reshape {
                shape: vec![75.into()],
            }
            .into(),
            &[turned],
        );
        let part = add(
            ops::Slice {
                axis: 1,
                start: 2,
                end: 21,
            }
            .into(),
            &[turned],
        );
        g.outputs = vec![both, turned, flat, part];
        let values = |n: usize| (0..n).map(|i| (i as f64) * 0.25 - 3.0).collect::<Vec<_>>();
        let inputs = [
            Tensor::new([20, 3], values(60)),
            Tensor::new([5, 3], values(15)),
            Tensor::new([3], values(3)),
        ];
        let wanted = g.eval(&inputs, &|_| 1).expect("evaluates");
        let terms: Vec<WeightTerm> = g
            .outputs
            .iter()
            .map(|v| WeightTerm {
                value: *v,
                codec: Codec::Plain(DType::F32),
                packing: Packing::Rows,
            })
            .collect();
        let fold = Fold::new(&g, &terms).expect("lowers");
        let input = |i: usize| {
            let t = &inputs[i];
            let dtype = if i < 2 { DType::BF16 } else { DType::F32 };
            let mut bytes = Array::from_tensor(t).pack(dtype, Packing::Rows);
            bytes.shrink_to_fit();
            Array::new(dtype, &t.shape, bytes)
        };
        for (i, want) in wanted.iter().enumerate() {
            let bytes = fold.term(i, &input).expect("folds");
            let got: Vec<f64> = bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f64::from(f32::from_le_bytes(*b)))
                .collect();
            assert_eq!(got, want.data, "term {i}");
        }
    }

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
        // Rows by 85 columns, six panels: in bf16 a strip of four and one of two.
        let t = Tensor::from_fn(&[3, 85], |i| (i[0] * 85 + i[1]) as f64);
        let check = |dtype: DType, [p, k, j]: [usize; 3], at: usize| {
            let packed = Array::from_tensor(&t).pack(dtype, Packing::Panels);
            let wide = Array::new(dtype, &[6 * 3 * PANEL], packed).pack(DType::F32, Packing::Rows);
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
            let strip = if p < 4 { [0, 4, p] } else { [4 * 3, 2, p - 4] };
            let [start, wide, p_in] = strip;
            check(
                DType::BF16,
                [p, k, j],
                (start + k * wide + p_in) * PANEL + j,
            );
        }
    }
}
