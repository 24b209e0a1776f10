//! Processors: launches are timed one by one, with weights that memory alone has and with weights that were just read.

use super::{
    Error, Machine, Points, Probe, Progress, Shape, picoseconds,
    programs::{self, MAPS, Rows, Storage},
};
use crate::measure::roofline;
use compiler::{
    compress::Overlay,
    optimize::cost::{CostTable, Grid, Products, Scores, TILE},
};
use ir::{
    DType, Element,
    abi::Codec,
    artifact::{Core, Work},
};
use runtime::{Chunk, Select, kernels::probe, pool::Pool};
use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Bytes that push all else out of the caches.
const FLUSH: usize = 128 << 20;

/// Time for each speed of reading.
const READING: Duration = Duration::from_millis(20);

/// Heads of attention that is measured.
const HEADS: usize = 8;

/// Layers of it, each with keys of its own.
const LAYERS: usize = 3;

/// What weights and rows are stored as.
const STORED: [Storage; 8] = {
    const fn plain(dtype: DType, rows: Rows) -> Storage {
        Storage {
            codec: Codec::Plain(dtype),
            rows,
        }
    }
    const fn grouped(element: Element, group: u32, rows: Rows) -> Storage {
        Storage {
            codec: Codec::Grouped { element, group },
            rows,
        }
    }
    [
        plain(DType::F32, Rows::F32),
        plain(DType::BF16, Rows::F32),
        plain(DType::BF16, Rows::Bf16),
        plain(DType::F16, Rows::F32),
        grouped(Element::Q8, 64, Rows::F32),
        grouped(Element::Q4, 32, Rows::F32),
        grouped(Element::Q8, 64, Rows::Codes),
        grouped(Element::Q4, 32, Rows::Codes),
    ]
};

/// See [`super::tune`].
pub(super) fn tune(
    machine: &Machine,
    points: &Points,
    progress: Progress<'_>,
) -> Result<CostTable, Error> {
    let steps = STORED.len() + 4;
    progress("reading", 0, steps);
    let bench = Bench {
        machine,
        points,
        flush: vec![1; FLUSH],
    };
    let pool = Pool::new(machine.threads);
    let boundary = boundary(&pool);
    let reads = reads(&pool, &points.sets)?;
    drop(pool);
    let mut products = vec![];
    for (i, storage) in STORED.into_iter().enumerate() {
        progress("products", 1 + i, steps);
        products.push(bench.products(storage)?);
    }
    progress("maps", steps - 3, steps);
    let maps = bench.maps()?;
    progress("attention", steps - 2, steps);
    let attention = vec![bench.sequences(boundary)?, bench.cached(boundary)?];
    progress("attention", steps, steps);
    Ok(machine.table(boundary, reads, products, maps, attention))
}

/// A region of the pool in which threads do nothing but meet.
fn boundary(pool: &Pool) -> u64 {
    let threads = pool.threads() as u64;
    let times = (0..2000).map(|_| {
        let here = AtomicU64::new(0);
        let start = Instant::now();
        pool.run(threads, 1, &|_, _, _| {
            here.fetch_add(1, Relaxed);
            // A thread that the system has taken away is not waited for.
            let mut patience = 10_000;
            while here.load(Relaxed) < threads && patience > 0 {
                patience -= 1;
                std::hint::spin_loop();
            }
        });
        start.elapsed()
    });
    picoseconds(times.collect())
}

/// Picoseconds that reading a megabyte takes, by how much is read again and again.
fn reads(pool: &Pool, sets: &[u64]) -> Result<Grid, Error> {
    let most = sets.iter().max().copied().unwrap_or(1);
    let mut data = memmap2::MmapMut::map_anon(most as usize).map_err(Error::Memory)?;
    #[cfg(target_os = "linux")]
    let _ = data.advise(memmap2::Advice::HugePage);
    data.fill(1);
    let times = sets.iter().map(|set| {
        let rate = roofline::read_for(READING, pool, &data[..*set as usize]);
        (1e18 / rate).round() as u64
    });
    Ok(Grid::new(vec![sets.to_vec()], times.collect())?)
}

struct Bench<'a> {
    machine: &'a Machine,
    points: &'a Points,
    flush: Vec<u8>,
}

impl Bench<'_> {
    /// Leaves nothing of a program in the caches.
    fn flush(&self) {
        black_box(probe::read(&self.flush, 4));
    }

    fn probe(&self, program: ir::Program, shape: &Shape) -> Result<Probe, Error> {
        let Machine {
            target, threads, ..
        } = self.machine;
        Probe::new(program, &Overlay::default(), shape, target, Some(*threads))
    }

    /// Median times of each launch, in picoseconds; the first run, which touches memory for the first time, does not count.
    fn median(
        &self,
        mut run: impl FnMut() -> Result<Vec<Duration>, Error>,
    ) -> Result<Vec<u64>, Error> {
        let mut launches: Vec<Vec<Duration>> = vec![];
        for i in 0..=self.points.runs {
            self.flush();
            let times = run()?;
            if i > 0 {
                launches.resize(times.len(), vec![]);
                launches.iter_mut().zip(times).for_each(|(l, t)| l.push(t));
            }
        }
        Ok(launches.into_iter().map(picoseconds).collect())
    }

    fn products(&self, storage: Storage) -> Result<Products, Error> {
        let Points {
            rows,
            depths,
            columns,
            ..
        } = self.points;
        let most = rows.iter().max().copied().unwrap_or(1) as usize;
        let program = programs::products(storage, most, depths, columns)?;
        let shape = Shape {
            context: most,
            vocabulary: most,
            decodes: false,
        };
        let mut probe = self.probe(program, &shape)?;
        // Far, then near; products are launched in the order of points.
        let mut times: [BTreeMap<(u64, usize), u64>; 2] = Default::default();
        let mut stored = (Codec::Plain(DType::F32), storage.codec);
        for m in rows {
            let median = self.median(|| probe.encode(&[*m as usize]))?;
            let timed = probe.launches().zip(median);
            let products = timed.filter_map(|((call, core), time)| match core {
                Core::Product(p) if call.starts_with("product") => Some((p, time)),
                _ => None,
            });
            for (i, (product, time)) in products.enumerate() {
                stored = (product.inputs, product.codec);
                times[i % 2].insert((*m, i / 2), time);
            }
        }
        let grid = |times: &BTreeMap<(u64, usize), u64>| {
            let axes = vec![rows.clone(), depths.clone(), columns.clone()];
            Grid::new(axes, times.values().copied().collect())
        };
        Ok(Products {
            inputs: stored.0,
            codec: stored.1,
            near: grid(&times[1])?,
            far: grid(&times[0])?,
        })
    }

    /// By elements and operations an element, as kernels count them.
    fn maps(&self) -> Result<Grid, Error> {
        let rows = &self.points.rows;
        let most = rows.iter().max().copied().unwrap_or(1) as usize;
        let columns = self.points.elements;
        let program = programs::maps(&MAPS, most, columns, 2, true);
        let shape = Shape {
            context: most,
            vocabulary: most,
            decodes: false,
        };
        let mut probe = self.probe(program, &shape)?;
        let work: Vec<Work<ir::Dim>> = {
            let plan = probe.plan();
            let launches = plan.launches.iter();
            launches
                .map(|l| plan.work[l.kernel as usize].clone())
                .collect()
        };
        let mut times: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        let mut intensities = vec![];
        for m in rows {
            let median = self.median(|| probe.encode(&[*m as usize]))?;
            for (work, time) in work.iter().zip(median) {
                let work = work.at(&|dim| u64::try_from(dim.eval(&|_| *m as i64)).unwrap_or(0));
                let each = work.flops.div_ceil(work.elements.max(1));
                if each == 0 || work.core != Core::Map {
                    continue;
                }
                if !intensities.contains(&each) {
                    intensities.push(each);
                }
                // The second of two finds its code in the cache.
                let known = times.entry((m * columns, each)).or_insert(time);
                *known = time.min(*known);
            }
        }
        intensities.sort_unstable();
        let elements = rows.iter().map(|m| m * columns).collect();
        Ok(Grid::new(
            vec![elements, intensities],
            times.into_values().collect(),
        )?)
    }

    /// The time of a tile, of that of a launch of attention over `rows` rows.
    fn tile(&self, time: u64, boundary: u64, rows: u64) -> u64 {
        let tiles = HEADS as u64 * rows.div_ceil(TILE);
        let turns = tiles.div_ceil(self.machine.threads as u64);
        (time.saturating_sub(boundary) / turns).max(1)
    }

    /// Attention within sequences: tiles of all rows.
    fn sequences(&self, boundary: u64) -> Result<Scores, Error> {
        let Points { keys, dims, .. } = self.points;
        let most = keys.iter().max().copied().unwrap_or(1).max(2 * TILE);
        let shape = Shape {
            context: most as usize,
            vocabulary: most as usize,
            decodes: false,
        };
        let mut times = BTreeMap::new();
        for dim in dims {
            let program = programs::attention(false, most as usize, HEADS, *dim as usize, LAYERS);
            let mut probe = self.probe(program, &shape)?;
            for n in keys {
                let sequences = (2 * TILE).div_ceil(*n).max(1);
                let lengths = vec![*n as usize; sequences as usize];
                let median = self.median(|| probe.encode(&lengths))?;
                let rows = n * sequences;
                let time = last_of_attention(&probe, &median);
                times.insert((*n, *dim), self.tile(time, boundary, rows));
            }
        }
        let axes = vec![vec![TILE], keys.clone(), dims.clone()];
        Ok(Scores {
            dtype: DType::F32,
            cached: false,
            tile: Grid::new(axes, times.into_values().collect())?,
        })
    }

    /// Attention over keys that are kept: from one row to a tile of them.
    fn cached(&self, boundary: u64) -> Result<Scores, Error> {
        let Points { keys, dims, .. } = self.points;
        let rows = vec![1, 4, TILE];
        let context = (keys.iter().max().copied().unwrap_or(1) + TILE) as usize;
        let shape = Shape {
            context,
            vocabulary: context,
            decodes: true,
        };
        let mut times = BTreeMap::new();
        for dim in dims {
            let program = programs::attention(true, context, HEADS, *dim as usize, LAYERS);
            let mut probe = self.probe(program, &shape)?;
            let ids: Vec<u32> = (0..context as u32).collect();
            for n in keys {
                for m in &rows {
                    // Rows see half of each other on average.
                    let depth = n.saturating_sub(m / 2) as usize;
                    let median = self.median(|| {
                        let session = &mut probe.session;
                        session.truncate(0, 0)?;
                        let mut step = |tokens| {
                            let chunk = Chunk {
                                sequence: 0,
                                tokens,
                                positions: None,
                            };
                            session.measure(true);
                            session.step(&[chunk], Select::Last).map(|_| ())
                        };
                        if depth > 0 {
                            step(&ids[..depth])?;
                        }
                        step(&ids[..*m as usize])?;
                        Ok(session.times().map(|(_, time)| time).collect())
                    })?;
                    let time = last_of_attention(&probe, &median);
                    times.insert((*m, *n, *dim), self.tile(time, boundary, *m));
                }
            }
        }
        let axes = vec![rows, keys.clone(), dims.clone()];
        Ok(Scores {
            dtype: DType::F32,
            cached: true,
            tile: Grid::new(axes, times.into_values().collect())?,
        })
    }
}

/// The time of the last layer's attention: the first may wake threads.
fn last_of_attention(probe: &Probe, times: &[u64]) -> u64 {
    let timed = probe.launches().zip(times);
    let attention = timed.filter(|((_, core), _)| matches!(core, Core::Attention(_)));
    attention.last().map_or(1, |(_, time)| *time)
}
