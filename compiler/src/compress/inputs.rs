//! Statistics of what weights multiply, as errors of alternatives are told from them: what each input is by itself, and how those
//! of some parts go together. Knows no weight.

use super::{CompressError, Matrix, Moments, rotated, sample::spread};
use rayon::prelude::*;
use std::sync::Arc;

/// Most inputs that are taken whole.
const WHOLE: usize = 2048;
/// Inputs of the parts of more.
const PARTS: [usize; 2] = [768, 1536];
/// Inputs beside each other that a part has together: the largest groups.
const BLOCKS: [usize; 3] = [128, 64, 32];

/// Statistics of inputs: what each is by itself, and how they go together, of all or of parts.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// All, one by one.
    pub(super) alone: Moments,
    /// Which inputs, and their moments; each part contains the one before. One part of all, where there are few.
    pub(super) parts: Vec<(Vec<usize>, Arc<Moments>)>,
}

impl Inputs {
    /// Of `k` inputs the parts whose moments are wanted.
    pub fn parts(k: usize) -> Vec<Vec<usize>> {
        if k <= WHOLE {
            return vec![(0..k).collect()];
        }
        let divides = |b: &usize| k.is_multiple_of(*b);
        let block = BLOCKS.into_iter().find(divides).unwrap_or(BLOCKS[2]);
        let all = spread(k / block, PARTS[1] / block);
        let parts = PARTS.map(|part| {
            let blocks = all.iter().step_by(PARTS[1] / part);
            blocks.flat_map(|b| b * block..(b + 1) * block).collect()
        });
        parts.to_vec()
    }

    /// Of what each input is by itself, and moments of [`Inputs::parts`].
    pub fn new(alone: Moments, moments: Vec<Arc<Moments>>) -> Inputs {
        let parts = Inputs::parts(alone.squares().len());
        Inputs {
            alone,
            parts: parts.into_iter().zip(moments).collect(),
        }
    }

    /// The moments of all, where few enough are taken whole.
    pub fn whole(&self) -> Option<&Arc<Moments>> {
        let (columns, moments) = self.parts.first()?;
        (columns.len() == self.alone.squares().len()).then_some(moments)
    }

    /// Computes what weights of these inputs share, before they are looked at side by side.
    pub fn prepare(&self) {
        let block = rotated::block(self.alone.squares().len());
        let turned = self.parts.first().zip(block);
        let turned = turned.map(|((_, moments), block)| moments.rotated(block));
        let moments = self.parts.iter().map(|(_, moments)| moments);
        // The largest first. Who asks for it is told why there is none.
        let all: Vec<&Moments> = moments.chain(&turned).map(|m| &**m).rev().collect();
        all.into_par_iter().with_max_len(1).for_each(|moments| {
            let _ = moments.feedback();
        });
    }

    /// Of the same inputs rotated in blocks, none of which is in a part in part, and no more than the first part of them.
    pub(super) fn rotated(&self, block: usize) -> Inputs {
        let part = |(columns, moments): &(Vec<usize>, Arc<Moments>)| {
            (columns.clone(), moments.rotated(block))
        };
        Inputs {
            alone: match self.whole() {
                Some(moments) => moments.rotated(block).apart(),
                None => Moments::clone(&self.alone.rotated(block)),
            },
            parts: self.parts.iter().take(1).map(part).collect(),
        }
    }

    /// Of inputs of which all is known.
    ///
    /// # Errors
    /// It is not.
    pub fn of(moments: &Moments) -> Result<Inputs, CompressError> {
        let second = moments.second()?;
        let parts = Inputs::parts(second.rows).into_iter().map(|columns| {
            let of = |xs: &[f32]| columns.iter().map(|c| xs[*c]).collect();
            let size = columns.len();
            let at = |i: usize, j: usize| second.row(columns[i])[columns[j]];
            let second = Matrix::from_fn(size, size, at);
            let [mean, max] = [moments.mean(), moments.max()].map(of);
            Arc::new(Moments::new(moments.rows(), second, mean, max))
        });
        Ok(Inputs::new(moments.apart(), parts.collect()))
    }
}
