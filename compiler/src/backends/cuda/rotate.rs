//! Rows that are rotated ([`ir::ops::Hadamard`]) on their way through a body: every element needs others, so an argument is
//! written to shared memory, rotated there by the row's threads, and the body goes on from there. Knows no other op.

use super::{
    rows::{Row, RowBody, Team, shifted},
    text::{Text, float},
};
use crate::backends::rows;
use ir::{DType, Op, Value as Term};

/// The device function, for texts that rotate.
pub const TEXT: &str = include_str!("kernels/hadamard.cu");

/// Shared memory of a block for rows that are rotated.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// Rows that the block computes at once.
    pub teams: u32,
    /// Floats that are taken.
    pub floats: i64,
}

impl RowBody<'_> {
    /// With shared memory for the rows that a block computes at once.
    pub fn sharing(mut self, teams: u32) -> Self {
        self.shared = Some(Shared { teams, floats: 0 });
        self
    }

    /// Bytes that were taken of it.
    pub fn shared(&self) -> u32 {
        self.shared.map_or(0, |shared| 4 * shared.floats as u32)
    }

    /// Rotates what `v`'s columns need rotated, so that it is loaded from then on.
    pub(super) fn rotate(&mut self, t: &mut Text, v: Term) -> Result<(), String> {
        let Team::Threads(threads) = self.team else {
            return Ok(());
        };
        for v in self.graph.cone(&[v]) {
            let (Some(Op::Hadamard(h)), [x]) = (self.graph.op(v), self.graph.args(v)) else {
                continue;
            };
            if self.rows.contains_key(&v) {
                continue;
            }
            let shared = self.shared.as_mut();
            let shared = shared.ok_or("rotates rows without shared memory for them")?;
            let columns = rows::width(self.graph, v)?;
            // Rows start where four floats are loaded at once.
            let each = (columns + 3) / 4 * 4;
            let start = shared.floats;
            shared.floats += each * i64::from(shared.teams);
            let row = format!("(float*)rotated + {start} + (threadIdx.x / {threads}) * {each}");
            let row = t.variable("float* const", row);
            self.walk_row(t, threads, *x, columns, &|t, start, x| {
                let column = shifted("i", start);
                t.line(format_args!("store_f32((char*){row}, {column}, {x});"));
            })?;
            let (block, scale) = (h.block, float(1.0 / (h.block as f32).sqrt()));
            t.line(format_args!(
                "hadamard<{block}, {threads}>({row}, {columns}, {scale}, lane);"
            ));
            let row = Row {
                address: format!("(const char*){row}"),
                dtype: DType::F32,
                stride: 1,
            };
            self.rows.insert(v, row);
        }
        Ok(())
    }
}
