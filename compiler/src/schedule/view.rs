//! How a kernel addresses an operand: element type, shape, strides. Knows nothing of where the operand lies.

use ir::{
    DType, Dim, Op, Shape, Type,
    abi::{BLOCK, Layout, PANEL},
};

/// Elements of an array, at most: addresses within a few arrays never overflow.
const MAX_ELEMENTS: i64 = 1 << 48;

/// A strided array of known inner strides; offsets belong to the operand, not here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Of the elements in memory, which may be narrower than what the kernel computes with.
    pub dtype: DType,
    /// Outermost first.
    pub shape: Shape,
    /// Elements between neighbours along each axis; between blocks along the first where the layout has blocks.
    pub strides: Vec<i64>,
    /// How the first axis lies in memory.
    pub layout: Layout,
}

impl View {
    /// A state `[R, G, D]` in the layout; `None` as for [`View::contiguous`].
    pub fn state(ty: &Type, layout: Layout) -> Option<View> {
        let mut view = View::contiguous(ty)?;
        let across = match layout {
            Layout::Rows => return Some(view),
            Layout::Keys | Layout::KeyCodes => PANEL,
            Layout::Values | Layout::ValueCodes => 1,
        };
        if layout.coded() {
            view.dtype = DType::I8;
        }
        let [_, heads, dim] = &view.shape[..] else {
            return None;
        };
        let width = layout.width(usize::try_from(dim.known()?).ok()?);
        let head = i64::try_from(width).ok()?.checked_mul(BLOCK as i64)?;
        view.strides = vec![head.checked_mul(heads.known()?)?, head, across as i64];
        view.layout = layout;
        Some(view)
    }

    /// Row-major; `None` when an axis other than the first has a symbolic size, or when addresses would overflow.
    pub fn contiguous(ty: &Type) -> Option<View> {
        let mut strides = vec![0; ty.shape.len()];
        let mut stride: i64 = 1;
        for (i, d) in ty.shape.iter().enumerate().rev() {
            strides[i] = stride;
            let n = match d.known() {
                Some(n) => n,
                None if i == 0 => d.bound(),
                None => return None,
            };
            stride = stride.checked_mul(n).filter(|s| *s <= MAX_ELEMENTS)?;
        }
        let (dtype, shape) = (ty.dtype, ty.shape.clone());
        Some(View {
            dtype,
            shape,
            strides,
            layout: Layout::Rows,
        })
    }

    /// Whether the elements lie one after another in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let ty = Type {
            dtype: self.dtype,
            shape: self.shape.clone(),
        };
        self.layout == Layout::Rows
            && View::contiguous(&ty).is_some_and(|c| {
                let axes = self.shape.iter().zip(self.strides.iter().zip(&c.strides));
                axes.into_iter()
                    .all(|(d, (a, b))| a == b || d.known() == Some(1))
            })
    }

    /// The view after a view op, and the elements by which it starts later. `None` when the result is no strided
    /// view.
    pub fn apply(&self, op: &Op) -> Option<(View, i64)> {
        if self.layout != Layout::Rows {
            return None;
        }
        match op {
            Op::Slice(s) => {
                let axis = usize::try_from(s.axis).ok()?;
                let mut view = self.clone();
                view.shape[axis] = (s.end - s.start).into();
                Some((view, s.start * self.strides[axis]))
            }
            Op::Transpose(t) => {
                let axes = t.axes(self.shape.len())?;
                Some((
                    View {
                        dtype: self.dtype,
                        shape: axes.iter().map(|a| self.shape[*a].clone()).collect(),
                        strides: axes.iter().map(|a| self.strides[*a]).collect(),
                        layout: Layout::Rows,
                    },
                    0,
                ))
            }
            Op::Reshape(r) => Some((self.reshape(&r.shape)?, 0)),
            _ => None,
        }
    }

    /// Splits and joins axes where strides allow it: walks both shapes, matching groups of axes of equal size.
    fn reshape(&self, shape: &Shape) -> Option<View> {
        let one = Dim::from(1);
        let old: Vec<(&Dim, i64)> = self
            .shape
            .iter()
            .zip(self.strides.iter().copied())
            .filter(|(d, _)| **d != one)
            .collect();
        let new: Vec<&Dim> = shape.iter().filter(|d| **d != one).collect();
        let (mut i, mut j) = (0, 0);
        let mut made: Vec<i64> = vec![];
        while i < old.len() && j < new.len() {
            let (mut a, mut b) = (old[i].0.clone(), new[j].clone());
            let (mut ie, mut je) = (i + 1, j + 1);
            // The side whose group is a factor of the other's grows, until both are equal.
            while a != b {
                let a_grows = match (a.known(), b.known()) {
                    (Some(x), Some(y)) => x < y,
                    _ => b.div_exact(&a).is_some(),
                };
                if a_grows && ie < old.len() {
                    a = a * old[ie].0.clone();
                    ie += 1;
                } else if !a_grows && je < new.len() {
                    b = b * new[je].clone();
                    je += 1;
                } else {
                    return None;
                }
            }
            let joined = old[i..ie]
                .windows(2)
                .all(|w| w[1].0.known().is_some_and(|n| w[0].1 == n * w[1].1));
            if !joined {
                return None;
            }
            let mut stride = old[ie - 1].1;
            let mut group = vec![0; je - j];
            for (s, d) in group.iter_mut().zip(&new[j..je]).rev() {
                *s = stride;
                stride = stride.saturating_mul(d.known().unwrap_or(1));
            }
            // Only the outermost axis of a group may be symbolic: an inner one would make a symbolic stride.
            if new[j + 1..je].iter().any(|d| d.known().is_none()) {
                return None;
            }
            made.extend(group);
            (i, j) = (ie, je);
        }
        if i < old.len() || j < new.len() {
            return None;
        }
        let mut made = made.into_iter();
        let strides = shape
            .iter()
            .map(|d| if *d == one { Some(0) } else { made.next() })
            .collect::<Option<Vec<i64>>>()?;
        Some(View {
            dtype: self.dtype,
            shape: shape.clone(),
            strides,
            layout: Layout::Rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::{Sym, ops};

    #[test]
    fn views_follow_reshapes_and_slices() {
        let t = Dim::from(&Sym::new("T", 64));
        let ty = Type::new(DType::F32, [t.clone(), 96.into()]);
        let base = View::contiguous(&ty).expect("contiguous");
        let slice = ops::Slice {
            axis: 1,
            start: 32,
            end: 96,
        };
        let (part, offset) = base.apply(&slice.into()).expect("a slice is a view");
        assert_eq!((offset, part.is_contiguous()), (32, false));
        let heads = |shape: Vec<Dim>| Op::from(ops::Reshape { shape });
        let (split, _) = part
            .apply(&heads(vec![t.clone(), 4.into(), 16.into()]))
            .expect("splitting an axis is a view");
        assert_eq!(split.strides, [96, 16, 1]);
        // Joining across the row gap is not.
        assert_eq!(part.apply(&heads(vec![t.clone() * 64.into()])), None);
        let (flat, _) = base
            .apply(&heads(vec![t * 96.into()]))
            .expect("contiguous arrays reshape freely");
        assert_eq!(flat.strides, [1]);
    }
}
