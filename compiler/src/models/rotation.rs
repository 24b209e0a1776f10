//! Rotary position embedding in graphs: the angles of fed positions, computed once for all layers. Knows what frequencies
//! are; not where they come from.

use super::{ModelError, draft::Block, rope::Frequencies};
use ir::{
    DType, Operand, Value, feed,
    ops::{Cast, Cos, Gather, Max, Min, Reshape, Sin, Sub},
};

/// Cosines and sines, each `f32[T, 1, R]`, of the angles that tokens turn by.
pub(super) type Rotation = [Value; 2];

impl Block<'_, '_> {
    /// The fed positions as `f32[T, 1, 1]`.
    pub(super) fn positions(&mut self) -> Result<Value, ModelError> {
        let positions = self.feed(feed::POSITIONS);
        let positions = self.op(Cast { to: DType::F32 }, &[positions])?;
        let shape = vec![self.ty(positions).last(), 1.into(), 1.into()];
        self.op(Reshape { shape }, &[positions])
    }

    /// Ends the block with embeddings `x`, and with cosines and sines of the angles that the fed positions turn by, of
    /// each rotation.
    pub(super) fn embedded(
        mut self,
        x: Value,
        by: &[Frequencies],
    ) -> Result<(Operand, Vec<[Operand; 2]>), ModelError> {
        let mut made = vec![x];
        for (i, by) in by.iter().enumerate() {
            let name = match i {
                0 => "rope".to_string(),
                _ => format!("rope.{}", i + 1),
            };
            made.extend(self.angles(&name, by)?);
        }
        let made = self.finish("embed", &made);
        let rotations = made[1..].chunks(2);
        let rotations = rotations.map(|pair| [pair[0].clone(), pair[1].clone()]);
        Ok((made[0].clone(), rotations.collect()))
    }

    /// One of the rotations of [`Block::embedded`].
    pub(super) fn take_rotation(&mut self, [cos, sin]: &[Operand; 2]) -> Rotation {
        [self.take("cos", cos), self.take("sin", sin)]
    }

    fn angles(&mut self, name: &str, by: &Frequencies) -> Result<Rotation, ModelError> {
        let positions = self.positions()?;
        let frequencies = match &by.rows[..] {
            [row] => self.constant(name, &[row.len()], row),
            rows => {
                let shape = [rows.len(), rows[0].len()];
                let table = self.constant(name, &shape, &rows.concat());
                let lengths = self.feed(feed::LENGTHS);
                let (first, zero) = (self.integer(by.first)?, self.integer(0)?);
                let last = self.integer(rows.len() - 1)?;
                let row = self.op(Sub, &[lengths, first])?;
                let row = self.op(Max, &[row, zero])?;
                let row = self.op(Min, &[row, last])?;
                let found = self.op(Gather, &[table, row])?;
                let shape = vec![self.ty(found).rows(), 1.into(), shape[1].into()];
                self.op(Reshape { shape }, &[found])?
            }
        };
        let angles = self.product(positions, frequencies)?;
        let mut waves = [self.op(Cos, &[angles])?, self.op(Sin, &[angles])?];
        for wave in &mut waves {
            *wave = self.scaled(*wave, by.scale)?;
        }
        Ok(waves)
    }
}
