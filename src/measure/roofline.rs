//! The machine's ceilings, measured: how fast it reads as much memory as a model has, and how fast it multiplies. A
//! model's speed means something beside them ("Roofline", Williams, Waterman and Patterson 2009).

use super::{Work, latency::Latency};
use crate::{Cache, nvrtc};
use compiler::{
    CompileError,
    backends::{EmitError, cuda::reading},
};
use ir::Target;
use memmap2::MmapMut;
use runtime::{
    devices::cuda::{self, Reader},
    kernels::probe::{self, Product},
    pool::Pool,
};
use std::{
    convert::Infallible,
    hint::black_box,
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Time given to each ceiling. The middle run counts, as it does for what is held against them: on a machine that others
/// use the fastest is luck, of which a buffer as large as the last cache has the most.
const BUDGET: Duration = Duration::from_millis(300);

/// Runs of each at least.
const RUNS: usize = 5;

/// More bytes than caches hold.
const FAR: usize = 1 << 30;

/// Bytes that a thread reads at once: large enough that starting costs nothing, small enough to share evenly.
const BLOCK: usize = 1 << 17;

/// Tiles that a thread multiplies at once, for the same reasons.
const TILES: usize = 256;

/// What the machine reaches with a number of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Bytes read a second, from wherever in the cache hierarchy they fit.
    pub read: f64,
    /// f32 operations a second, a multiply-add counting two; `None` where they are not measured.
    pub flops: Option<f64>,
}

/// Which ceiling is the nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Reading.
    Memory,
    /// Arithmetic.
    Compute,
}

impl Ceilings {
    /// Measures them, reading `data`: a model's weights, which lie in this memory and in these pages and no others.
    pub fn measure(pool: &Pool, data: &[u8]) -> Ceilings {
        Ceilings {
            read: read(pool, data),
            flops: product(pool, Product::F32),
        }
    }

    /// Of the first GPU how fast it reads, by a kernel compiled for `target`, or kept in the cache.
    ///
    /// # Errors
    /// No NVRTC, or a GPU that fails.
    pub fn of_gpu(target: &Target, cache: Option<&Cache>) -> Result<Ceilings, crate::Error> {
        let arch = target.to_string();
        let cubin = nvrtc::find(cache)?.cubin(&reading::text(), &arch);
        let cubin = cubin.map_err(|error| EmitError::Target {
            backend: "cuda",
            why: error.to_string(),
        });
        let reader = Reader {
            cubin: &cubin.map_err(CompileError::from)?,
            threads: reading::THREADS,
            turn: reading::TURN,
        };
        Ok(Ceilings {
            read: cuda::read_speed(reader)?,
            flops: None,
        })
    }

    /// Least seconds that `work` can take, and what holds it back.
    pub fn least(&self, work: &Work) -> (f64, Bound) {
        let read = work.bytes / self.read;
        let compute = self.flops.map_or(0.0, |flops| work.flops / flops);
        if read > compute {
            (read, Bound::Memory)
        } else {
            (compute, Bound::Compute)
        }
    }
}

/// Memory that caches do not hold, in large pages where the system has them.
///
/// # Errors
/// There is none.
pub fn far() -> io::Result<MmapMut> {
    let mut data = MmapMut::map_anon(FAR)?;
    #[cfg(target_os = "linux")]
    let _ = data.advise(memmap2::Advice::HugePage);
    // Zeros could all be one page.
    data.fill(1);
    Ok(data)
}

/// Bytes of `data` read a second, of the first gigabyte: the fastest of several strides.
pub fn read(pool: &Pool, data: &[u8]) -> f64 {
    read_for(BUDGET, pool, data)
}

/// The same, with so much time for each stride.
pub(crate) fn read_for(budget: Duration, pool: &Pool, data: &[u8]) -> f64 {
    let data = &data[..data.len().min(FAR)];
    let bytes = data.len();
    let sink = AtomicU64::new(0);
    let seconds = |(block, streams): (usize, usize)| {
        typical(budget, || {
            pool.run(bytes.div_ceil(block) as u64, 1, &|_, begin, end| {
                let end = (end as usize * block).min(bytes);
                let found = probe::read(&data[begin as usize * block..end], streams);
                sink.fetch_xor(found, Relaxed);
            });
        })
    };
    let share = bytes.div_ceil(pool.threads());
    let best = [BLOCK, share]
        .into_iter()
        .flat_map(|block| [1, 2, 4].map(|streams| (block, streams)))
        .map(seconds)
        .fold(f64::INFINITY, f64::min);
    black_box(&sink);
    bytes as f64 / best
}

/// Operations a second of a kind of product, a multiply-add counting two; `None` where the processor has none.
pub fn product(pool: &Pool, product: Product) -> Option<f64> {
    product.run(1)?;
    let operations = AtomicU64::new(0);
    let seconds = typical(BUDGET, || {
        operations.store(0, Relaxed);
        pool.run(pool.threads() as u64 * 16, 1, &|_, begin, end| {
            let done = product.run(TILES * (end - begin) as usize).unwrap_or(0);
            operations.fetch_add(done, Relaxed);
        });
    });
    Some(operations.load(Relaxed) as f64 / seconds)
}

/// Seconds of the middle run.
fn typical(budget: Duration, mut run: impl FnMut()) -> f64 {
    let run = || {
        run();
        Ok::<(), Infallible>(())
    };
    let Ok(latency) = Latency::measure(budget, RUNS, run);
    latency.median()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_both_binds() {
        let ceilings = Ceilings {
            read: 10.0,
            flops: Some(100.0),
        };
        let unknown = Ceilings {
            flops: None,
            ..ceilings
        };
        let check = |bytes, flops, expected| {
            assert_eq!(
                ceilings.least(&Work { bytes, flops }),
                expected,
                "{bytes} {flops}"
            );
        };
        check(20.0, 100.0, (2.0, Bound::Memory));
        check(20.0, 300.0, (3.0, Bound::Compute));
        let work = Work {
            bytes: 20.0,
            flops: 300.0,
        };
        assert_eq!(unknown.least(&work), (2.0, Bound::Memory));
    }
}
