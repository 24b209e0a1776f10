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
                    strip * k + row * wide + (column - strip)
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
            })
        }
        Codec::Grouped { bits, group } => {
            let group = group as usize;
            let strip = p / STRIP * STRIP * codec.panel(k);
            let codes = STRIP * PANEL * 2;
            let start =
                strip + row / group * (codes + STRIP * PANEL * group * usize::from(bits) / 8);
            let lane = p % STRIP;
            let scale = bytes.get(start + (lane * PANEL + j) * 2..)?;
            let scale = f16::from_le_bytes(*scale.first_chunk()?).to_f32();
            let within = row % group;
            // Rows that a line of 64 bytes a panel holds.
            let rows = if bits == 8 { 4 } else { 8 };
            let line = (within / rows * STRIP + lane) * 64 + 4 * j + within % 4;
            let byte = *bytes.get(start + codes + line)?;
            let code = match (bits, within % rows) {
                (8, _) => i32::from(byte) - 128,
                (_, 0..4) => i32::from(byte & 15) - 8,
                _ => i32::from(byte >> 4) - 8,
            };
            Some(scale * code as f32)
        }
    }
}
