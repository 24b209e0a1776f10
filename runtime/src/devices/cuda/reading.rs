//! How fast the GPU reads its memory, by a kernel that is given: launched and timed as those of steps are. Knows no models.

use super::{
    driver::{Context, Grid},
    fault::failed,
};
use crate::Error;

/// Bytes that are read, where so many are free: more than caches hold.
const FAR: u64 = 4 << 30;
/// What the memory is filled with.
const FILL: u8 = 0x3c;
/// Runs of each way to read; an odd number, of which the middle one counts.
const RUNS: usize = 7;

/// A kernel that reads. Its arguments: the memory's address, how many turns there are, the first turn of a block over its number,
/// from each of a block's turns to its next, how many it has, and four bytes to write to.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// Machine code.
    pub cubin: &'a [u8],
    /// Of a block.
    pub threads: u32,
    /// Bytes of a turn.
    pub turn: u64,
}

/// Bytes a second that the first GPU reads: the fastest of several ways to share them out.
///
/// # Errors
/// As [`gpu`](super::gpu), or no memory to read.
pub fn read_speed(reader: Reader<'_>) -> Result<f64, Error> {
    let context = Context::open()?;
    let kernel = context.kernel(reader.cubin, "loading the kernel that reads memory")?;
    let (free, _) = context.memory()?;
    let turns = (free / 2).min(FAR) / reader.turn;
    let remedy = "end what else uses the GPU, or do without (--roofline=none)";
    context.spare("reading memory", reader.turn.saturating_mul(2), remedy)?;
    let bytes = turns * reader.turn;
    let memory = context.allocate("reading memory", bytes, FILL)?;
    let sink = context.allocate("what is read", 4, 0)?;
    let stream = context.stream()?;
    let (begin, end) = (context.event()?, context.event()?);
    let mut fastest = f32::INFINITY;
    for blocks in [1, 2, 4].map(|each| u64::from(each * context.processors.max(1))) {
        let share = turns.div_ceil(blocks);
        // In turns, or a part of the memory for each.
        for [near, step] in [[1, blocks], [share, 1]] {
            let args = [memory.address, turns, near, step, share, sink.address];
            let grid = Grid {
                blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
                threads: reader.threads,
                shared: 0,
                early: false,
            };
            let mut times = vec![];
            for _ in 0..RUNS {
                stream.record(&begin)?;
                // SAFETY: the arguments are those that the kernel takes, of memory that outlives the wait.
                unsafe { stream.launch(&kernel, grid, &args) }
                    .map_err(failed("launching the kernel that reads memory"))?;
                stream.record(&end)?;
                stream.wait("reading memory")?;
                times.push(end.since(&begin)?);
            }
            times.sort_by(f32::total_cmp);
            fastest = fastest.min(times[RUNS / 2]);
        }
    }
    Ok(bytes as f64 / (f64::from(fastest) * 1e-3))
}
