//! How narrow a value may be stored without changing it, as far as the op that computes it shows. Knows neither graphs
//! nor kernels.

use ir::{DType, Op, Type, abi::Codec};

/// How a value may be stored exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// How elements are stored.
    pub codec: Codec,
    /// The axis along which groups lie; 0 where there are none.
    pub axis: usize,
    /// Of the groups' scales.
    pub scale: DType,
}

impl Storage {
    /// Elements by themselves.
    pub fn plain(dtype: DType) -> Storage {
        Storage {
            codec: Codec::Plain(dtype),
            axis: 0,
            scale: DType::F32,
        }
    }

    /// That of an op's result: ops that move elements keep their argument's, a widening cast too, arithmetic does not.
    pub fn of(op: &Op, args: &[Storage], ty: &Type) -> Storage {
        let plain = Storage::plain(ty.dtype);
        let Some(first) = args.first().copied() else {
            return plain;
        };
        let grouped = matches!(first.codec, Codec::Grouped { .. });
        let across = |axis: i64| !grouped || usize::try_from(axis) != Ok(first.axis);
        match op {
            Op::FakeQuantize(q) => Storage {
                codec: Codec::Grouped {
                    element: q.element,
                    group: q.group as u32,
                },
                axis: ty.shape.len().saturating_sub(1),
                scale: q.scale,
            },
            // The second argument is the scales.
            Op::Dequantize(d) => Storage {
                codec: Codec::Grouped {
                    element: d.element,
                    group: d.group as u32,
                },
                axis: ty.shape.len().saturating_sub(1),
                scale: args.get(1).and_then(|s| s.dtype()).unwrap_or(DType::F32),
            },
            Op::Map(_) if matches!(args[1].codec, Codec::Grouped { .. }) => args[1],
            Op::Transpose(t) => {
                let axes = t.axes(ty.shape.len()).unwrap_or_default();
                let axis = axes.iter().position(|a| *a == first.axis);
                Storage {
                    axis: axis.filter(|_| grouped).unwrap_or(0),
                    ..first
                }
            }
            Op::Slice(s) if across(s.axis) => first,
            Op::Concat(c) if across(c.axis) && args.iter().all(|a| *a == first) => first,
            Op::Reshape(_) | Op::Gather(_) if !grouped => first,
            Op::Cast(c) if c.to == DType::F32 && first.is_float() => first,
            _ => plain,
        }
    }

    /// Whether one kernel may read all of them as they are stored: few bits only where their groups are alike.
    pub fn alike(all: impl IntoIterator<Item = Storage>) -> bool {
        let all: Vec<Storage> = all.into_iter().collect();
        all.iter().all(|s| s.dtype().is_some()) || all.iter().all(|s| *s == all[0])
    }

    /// Whether elements are floats, or stand for floats.
    fn is_float(self) -> bool {
        match self.codec {
            Codec::Plain(dtype) => dtype.is_float(),
            Codec::Grouped { .. } => true,
        }
    }

    /// Bytes of so many elements, scales included.
    pub fn bytes(self, elements: u64) -> u64 {
        match self.codec {
            Codec::Plain(dtype) => elements.saturating_mul(dtype.bytes() as u64),
            Codec::Grouped { element, group } => element.bytes(elements, group),
        }
    }

    /// The narrower of two that store the same value.
    pub fn min(self, o: Storage) -> Storage {
        let order = |s: &Storage| (s.bytes(1 << 20), s.axis, format!("{s:?}"));
        std::cmp::min_by_key(self, o, order)
    }

    /// The element type, where elements are by themselves.
    pub fn dtype(self) -> Option<DType> {
        match self.codec {
            Codec::Plain(dtype) => Some(dtype),
            Codec::Grouped { .. } => None,
        }
    }
}
