//! Reads packed weights back, element by element, from what the kernel ABI says of their layout: the counterpart of packing,
//! with which it shares no code, so that what was written can be held against what was meant.

use crate::schedule::Packing;
use half::{bf16, f16};
use ir::{
    DType,
    abi::{Codec, PANEL, STRIP, cuda::DEPTH},
};

/// Element `[row, column]` of a packed matrix `[k, n]`; of a term in rows `k` is the product of all axes but the last.
/// `None` where the bytes end before it.
pub fn element(
    bytes: &[u8],
    (codec, packing): (Codec, Packing),
    [k, n]: [usize; 2],
    [row, column]: [usize; 2],
) -> Option<f32> {
    let (p, j) = (column / PANEL, column % PANEL);
    match codec {
        Codec::Plain(dtype) => {
            let index = match packing {
                Packing::Rows => row * n + column,
                Packing::Panels => {
                    let most = codec.strip() * PANEL;
                    let strip = column / most * most;
                    let wide = most.min((n - strip).next_multiple_of(PANEL));
                    match dtype {
                        DType::BF16 => {
                            let pair = row / 2 * wide + (column - strip);
                            strip * (k + k % 2) + 2 * pair + row % 2
                        }
                        _ => strip * k + row * wide + (column - strip),
                    }
                }
                Packing::Columns => column * k.next_multiple_of(DEPTH) + row,
                Packing::Cells => return None,
            };
            let at = bytes.get(index * dtype.bytes()..)?;
            let two = || at.first_chunk::<2>().copied();
            Some(match dtype {
                DType::F32 => f32::from_le_bytes(*at.first_chunk()?),
                DType::F16 => f16::from_le_bytes(two()?).to_f32(),
                DType::BF16 => bf16::from_le_bytes(two()?).to_f32(),
                DType::I32 => i32::from_le_bytes(*at.first_chunk()?) as f32,
                DType::Bool => f32::from(*at.first()?),
                DType::I8 => f32::from(*at.first()? as i8),
                DType::I16 => i16::from_le_bytes(two()?).into(),
            })
        }
        Codec::Grouped { element, group } => {
            let (group, bits) = (group as usize, element.width());
            let strip = p / STRIP * STRIP * codec.panel(k);
            let scales = STRIP * PANEL * 2;
            let zeros = STRIP * PANEL * usize::from(element.zero());
            let start = strip + row / group * (scales + zeros + STRIP * PANEL * group * bits / 8);
            let lane = p % STRIP;
            let scale = bytes.get(start + (lane * PANEL + j) * 2..)?;
            let scale = f16::from_le_bytes(*scale.first_chunk()?).to_f32();
            let zero = match element.zero() {
                true => {
                    i32::from(*bytes.get(start + scales + lane * PANEL + j)?) - element.excess()
                }
                false => 0,
            };
            // Bit after bit: of which plane it is, and where that plane's line of 32 rows has it.
            let block = start + scales + zeros + row % group / 32 * bits * STRIP * 64;
            let (mut code, mut bit, mut of_row) = (0, 0, bits);
            while bit < bits {
                let width = 1 << of_row.min(8).ilog2();
                let rows = 32 / width;
                let line = bit + row % 32 / rows;
                let byte = *bytes.get(block + (line * STRIP + lane) * 64 + 4 * j + row % 4)?;
                let part = usize::from(byte) >> (row % rows / 4 * width) & ((1 << width) - 1);
                code |= part << bit;
                (bit, of_row) = (bit + width, of_row - width);
            }
            let code = code as i32 - element.excess();
            Some(element.number(code, zero) * scale)
        }
    }
}
