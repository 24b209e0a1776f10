//! Times over a grid of sizes, and between its points: linear in the logarithms of sizes and of time, so that it is exact
//! for powers, of which work is made. Knows no kernels.

use serde::{Deserialize, Serialize};

/// Picoseconds by sizes. More is never faster: where a measurement says so, something else slowed the machine during the one
/// of less work, and the time of more counts for both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Grid {
    axes: Vec<Vec<u64>>,
    times: Vec<u64>,
}

/// A grid as a file has it.
#[derive(Deserialize)]
struct Unchecked {
    axes: Vec<Vec<u64>>,
    times: Vec<u64>,
}

/// What makes numbers no grid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GridError {
    /// An axis that does not ascend from at least 1, or has no points.
    #[error("an axis of {0:?}, which does not ascend from at least 1")]
    Axis(Vec<u64>),
    /// Not one time a point.
    #[error("{found} times for {wanted} points")]
    Times {
        /// Times.
        found: usize,
        /// Points.
        wanted: usize,
    },
    /// A kernel that takes no time.
    #[error("a time of 0 ps")]
    Zero,
}

impl TryFrom<Unchecked> for Grid {
    type Error = GridError;
    fn try_from(Unchecked { axes, times }: Unchecked) -> Result<Grid, GridError> {
        Grid::new(axes, times)
    }
}

impl Grid {
    /// Times in the order of points, the last axis varying fastest.
    ///
    /// # Errors
    /// See [`GridError`].
    pub fn new(axes: Vec<Vec<u64>>, times: Vec<u64>) -> Result<Grid, GridError> {
        for axis in &axes {
            let ascends = axis.windows(2).all(|w| w[0] < w[1]);
            if !ascends || axis.first().is_none_or(|first| *first == 0) {
                return Err(GridError::Axis(axis.clone()));
            }
        }
        let wanted = axes.iter().map(Vec::len).product();
        if times.len() != wanted {
            let found = times.len();
            return Err(GridError::Times { found, wanted });
        }
        if times.contains(&0) {
            return Err(GridError::Zero);
        }
        let mut grid = Grid { axes, times };
        grid.ascend();
        Ok(grid)
    }

    fn ascend(&mut self) {
        let mut stride = 1;
        for axis in self.axes.iter().rev() {
            for i in (stride..self.times.len()).rev() {
                if i / stride % axis.len() > 0 {
                    self.times[i - stride] = self.times[i - stride].min(self.times[i]);
                }
            }
            stride *= axis.len();
        }
    }

    /// At each point the median of what several grids of the same axes say.
    pub(super) fn median(grids: &[&Grid]) -> Option<Grid> {
        let axes = &grids.first()?.axes;
        let times = (0..grids[0].times.len()).map(|i| {
            let of = grids.iter().filter(|g| g.axes == *axes);
            let mut times: Vec<u64> = of.map(|g| g.times[i]).collect();
            times.sort_unstable();
            times[times.len() / 2]
        });
        let mut grid = Grid {
            axes: axes.clone(),
            times: times.collect(),
        };
        grid.ascend();
        Some(grid)
    }

    /// How many sizes a point has.
    pub fn axes(&self) -> usize {
        self.axes.len()
    }

    /// Its points, in the order of [`Grid::new`]'s times, and their times.
    pub fn points(&self) -> impl DoubleEndedIterator<Item = (Vec<u64>, u64)> {
        self.times.iter().enumerate().map(|(i, time)| {
            let mut rest = i;
            let mut point: Vec<u64> = (self.axes.iter().rev())
                .map(|axis| {
                    let at = axis[rest % axis.len()];
                    rest /= axis.len();
                    at
                })
                .collect();
            point.reverse();
            (point, *time)
        })
    }

    /// Picoseconds at a size for each axis. Beyond an axis' last point time grows as the size does, before its first one it
    /// stays; along an axis of one point it grows all the way.
    ///
    /// # Panics
    /// With another number of sizes than there are axes.
    pub fn at(&self, sizes: &[u64]) -> f64 {
        assert_eq!(sizes.len(), self.axes.len(), "sizes for {:?}", self.axes);
        // For each axis the point before the size, how far it is to the next one, and by how much it is beyond all.
        let mut beyond = 1.0;
        let mut between = vec![];
        for (axis, size) in self.axes.iter().zip(sizes) {
            let (first, last) = (axis[0], axis[axis.len() - 1]);
            let mut size = (*size).max(1);
            if size > last || first == last {
                beyond *= size as f64 / last as f64;
                size = last;
            }
            let size = size.max(first);
            let next = axis
                .partition_point(|p| *p < size)
                .clamp(1, axis.len().max(2) - 1);
            let step = |from: u64, to: u64| (to as f64 / from as f64).ln();
            between.push(match axis.get(next) {
                Some(to) => (
                    next - 1,
                    step(axis[next - 1], size) / step(axis[next - 1], *to),
                ),
                None => (0, 0.0),
            });
        }
        let mut log = 0.0;
        for corner in 0..1usize << self.axes.len() {
            let (mut at, mut weight) = (0, 1.0);
            for (a, (axis, (point, share))) in self.axes.iter().zip(&between).enumerate() {
                let upper = corner >> a & 1;
                weight *= if upper == 1 { *share } else { 1.0 - share };
                at = at * axis.len() + (point + upper).min(axis.len() - 1);
            }
            if weight != 0.0 {
                log += weight * (self.times[at] as f64).ln();
            }
        }
        log.exp() * beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let axes = vec![vec![1, 8, 64], vec![16, 256]];
        Grid::new(axes, vec![10, 100, 20, 150, 90, 1200]).unwrap()
    }

    #[test]
    fn exact_at_its_points() {
        for (point, time) in grid().points() {
            assert!((grid().at(&point) - time as f64).abs() < 1e-6, "{point:?}");
        }
    }

    #[test]
    fn more_is_never_faster() {
        let sizes = [1, 2, 3, 7, 8, 9, 63, 64, 65, 1000];
        for w in sizes.windows(2) {
            for other in [1, 16, 100, 256, 5000] {
                assert!(grid().at(&[w[0], other]) <= grid().at(&[w[1], other]) + 1e-6);
                assert!(grid().at(&[other, w[0]]) <= grid().at(&[other, w[1]]) + 1e-6);
            }
        }
        // A measurement that says otherwise is the noise of its neighbours.
        let noisy = Grid::new(vec![vec![1, 2, 4]], vec![50, 30, 70]).unwrap();
        assert_eq!(
            noisy.points().map(|p| p.1).collect::<Vec<_>>(),
            [30, 30, 70]
        );
    }

    #[test]
    fn a_sweep_that_was_disturbed_does_not_count() {
        let grid = |times: [u64; 4]| {
            let axes = vec![vec![1, 2], vec![4, 8]];
            Grid::new(axes, times.to_vec()).unwrap()
        };
        let sweeps = [
            grid([10, 20, 21, 41]),
            grid([11, 95, 98, 99]),
            grid([12, 22, 20, 40]),
        ];
        let median = Grid::median(&sweeps.each_ref()).unwrap();
        assert_eq!(median, grid([11, 22, 21, 41]));
        assert_eq!(Grid::median(&[]), None);
    }

    #[test]
    fn between_and_beyond() {
        let check = |sizes: [u64; 2], expected: f64| {
            let found = grid().at(&sizes);
            assert!((found / expected - 1.0).abs() < 1e-9, "{sizes:?}: {found}");
        };
        // The geometric mean halfway between logarithms.
        check([1, 64], (10.0 * 100.0_f64).sqrt());
        check([64, 512], 2400.0);
        check([128, 256], 2400.0);
        check([1, 1], 10.0);
        let line = Grid::new(vec![vec![64]], vec![7]).unwrap();
        assert!((line.at(&[32]) - 3.5).abs() < 1e-9 && (line.at(&[640]) - 70.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_no_grid_is_refused() {
        let check = |axes: Vec<Vec<u64>>, times: Vec<u64>, expected: &str| {
            let error = Grid::new(axes, times).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(vec![vec![2, 1]], vec![1, 1], "does not ascend");
        check(vec![vec![]], vec![], "does not ascend");
        check(vec![vec![0, 1]], vec![1, 1], "at least 1");
        check(vec![vec![1, 2], vec![1]], vec![1], "1 times for 2 points");
        check(vec![vec![1]], vec![0], "0 ps");
    }
}
