//! Integers that share scales as tensor cores take them ([`Cell`]). Knows nothing of where the integers come from.

use super::{FoldError, groups::Groups};
use ir::{
    Element,
    abi::{
        Codec,
        cuda::{Cell, TILE},
    },
};
use rayon::prelude::*;

/// Where a row of a cell lies: of which 32 rows, with which lane of its column's four, and as which of that lane's numbers.
fn place(row: usize) -> (usize, usize, usize) {
    (row / 32, row % 8 / 2, row / 8 % 4 * 2 + row % 2)
}

impl Groups<'_> {
    /// A matrix `[K, N]` with groups along `K` as the codec says, in cells.
    pub(super) fn cells(&self, codec: Codec) -> Result<Vec<u8>, FoldError> {
        let (Some((element, _)), Some(cell)) = (codec.grouped(), Cell::of(codec)) else {
            return Err(FoldError::Groups {
                found: "codes".into(),
                wanted: codec,
            });
        };
        let [k, n, group] = self.sizes();
        let cells = k.max(1).div_ceil(cell.depth);
        let mut out = vec![0u8; n.div_ceil(TILE) * cells * cell.bytes()];
        let tiles = out.par_chunks_mut(cells * cell.bytes()).enumerate();
        tiles.try_for_each(|(tile, bytes)| {
            for (c, bytes) in bytes.chunks_mut(cell.bytes()).enumerate() {
                let (codes, scales) = bytes.split_at_mut(cell.codes);
                if element == Element::Q4 {
                    // Zero, where nothing comes.
                    codes.fill(0x88);
                }
                let first = c * cell.depth;
                for j in 0..TILE.min(n - tile * TILE) {
                    let column = tile * TILE + j;
                    for g in 0..cell.groups {
                        let of = (first + g * group) / group;
                        let to = (j / 2 * cell.groups + g) * 4 + j % 2 * 2;
                        if of * group < k {
                            scales[to..][..2].copy_from_slice(&self.scale(of, column));
                        }
                    }
                    for row in first..(first + cell.depth).min(k) {
                        let code = self.code(row, column)?;
                        let (h, t, e) = place(row - first);
                        let lane = &mut codes[(4 * j + t) * 16..][..16];
                        if element.width() == 8 {
                            lane[8 * h + e / 4 * 4 + [0, 2, 1, 3][e % 4]] = code as u8;
                            continue;
                        }
                        let half = e / 2 + e % 2 * 4;
                        let (byte, code) = (&mut lane[4 * h + half / 2], (code + 8) as u8);
                        *byte = match half % 2 {
                            0 => *byte & 0xf0 | code,
                            _ => *byte & 0x0f | code << 4,
                        };
                    }
                }
            }
            Ok::<_, FoldError>(())
        })?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Array, groups::Groups};
    use super::*;
    use crate::schedule::Packing;
    use half::f16;
    use ir::{DType, Op, Tensor, ops};

    /// `[K, N]`, rounded along `K`.
    fn pack(t: &Tensor, codec: Codec) -> Vec<u8> {
        let Some((element, group)) = codec.grouped() else {
            unreachable!("few bits are grouped");
        };
        let turn = Op::from(ops::Transpose {
            perm: vec![1.into(), 0.into()],
        });
        let round = Op::from(ops::FakeQuantize {
            element,
            group: group.into(),
            scale: DType::F16,
        });
        let [k, n] = [t.shape[0], t.shape[1]];
        let turned = Array::from_tensor(t)
            .relayout(&turn, &[n, k])
            .expect("a view");
        let groups = Groups::of(&round, &[turned]).expect("rounds");
        let groups = groups.relayout(&turn, &[k, n]).expect("a view");
        groups
            .pack(codec, Packing::Cells)
            .expect("codes are in range")
    }

    /// The weight in row `k` and column `j` as [`Cell`] says that it lies.
    fn read(bytes: &[u8], element: Element, group: usize, depth: usize, k: usize, j: usize) -> f32 {
        let cell = Cell::of(Codec::Grouped {
            element,
            group: group as u32,
        })
        .expect("few bits lie in cells");
        let cells = depth.div_ceil(cell.depth);
        let at = (j / TILE * cells + k / cell.depth) * cell.bytes();
        let (codes, scales) = bytes[at..][..cell.bytes()].split_at(cell.codes);
        let (j, k) = (j % TILE, k % cell.depth);
        // Words of products: two neighbours each, eight rows apart.
        let (h, t, e) = (k / 32, k % 8 / 2, k / 8 % 4 * 2 + k % 2);
        let of_lane = &codes[(4 * j + t) * 16..][..16];
        let code = match element {
            Element::Q8 | Element::Q7 | Element::E4M3 => {
                let code = of_lane[8 * h + e / 4 * 4 + [0, 2, 1, 3][e % 4]] as i8;
                element.number(code.into(), 0)
            }
            _ => {
                let half = [0, 4, 1, 5, 2, 6, 3, 7][e];
                f32::from(of_lane[4 * h + half / 2] >> (4 * (half % 2)) & 15) - 8.0
            }
        };
        let scale = ((j / 2 * cell.groups + k / group) * 2 + j % 2) * 2;
        code * f16::from_le_bytes([scales[scale], scales[scale + 1]]).to_f32()
    }

    #[test]
    fn cells_hold_what_was_rounded() {
        let (depth, columns) = (192, 11);
        let t = Tensor::from_fn(&[depth, columns], |i| {
            ((i[0] * 37 + i[1] * 11) % 101) as f64 - 50.0
        });
        for (element, most) in [
            (Element::Q8, 127.0),
            (Element::E4M3, 14.0),
            (Element::Q4, 7.0),
        ] {
            for group in [32, 64] {
                let codec = Codec::Grouped {
                    element,
                    group: group as u32,
                };
                let packed = pack(&t, codec);
                for k in 0..depth {
                    for j in 0..columns {
                        let found = read(&packed, element, group, depth, k, j);
                        let wanted = t.data[k * columns + j] as f32;
                        // Half a step of the largest scale there can be.
                        let apart = (found - wanted).abs();
                        assert!(
                            apart <= 0.51 * 50.0 / most,
                            "{codec} [{k}, {j}]: {found}, not {wanted}"
                        );
                    }
                }
            }
        }
    }
}
