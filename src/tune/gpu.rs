//! GPUs: kernels follow each other there as they do in a model, so that what counts is by how much a step of many of them is
//! longer than one without, by the device's own clock.

use super::{
    Error, Machine, Points, Probe, Progress, Shape, picoseconds,
    programs::{self, MAPS, Rows, Storage},
};
use compiler::{
    compress::Overlay,
    optimize::cost::{CostTable, Grid, Products, Scores, TILE},
};
use ir::{
    DType, Element, Program,
    abi::Codec,
    artifact::{Core, Work},
};
use runtime::{Chunk, Select};
use std::collections::BTreeMap;

/// Bytes of different weights of a kind: more than caches hold.
const FAR: u64 = 160 << 20;

/// Maps of a kind, and layers of attention, in a step.
const COUNT: usize = 16;

/// Heads of attention that is measured.
const HEADS: usize = 8;

/// Runs before those that count: memory is touched, and the step becomes a graph.
const WARM: usize = 3;

/// What weights and rows are stored as.
const STORED: [Storage; 7] = {
    const fn of(codec: Codec, rows: Rows) -> Storage {
        Storage { codec, rows }
    }
    const EIGHT: Codec = Codec::Grouped {
        element: Element::Q8,
        group: 64,
    };
    const FOUR: Codec = Codec::Grouped {
        element: Element::Q4,
        group: 32,
    };
    [
        of(Codec::Plain(DType::F32), Rows::F32),
        of(Codec::Plain(DType::BF16), Rows::F32),
        of(Codec::Plain(DType::BF16), Rows::Bf16),
        of(EIGHT, Rows::F32),
        of(EIGHT, Rows::Bf16),
        of(FOUR, Rows::F32),
        of(FOUR, Rows::Bf16),
    ]
};

/// See [`super::tune`].
pub(super) fn tune(
    machine: &Machine,
    points: &Points,
    progress: Progress<'_>,
) -> Result<CostTable, Error> {
    let bench = Bench { machine, points };
    let shapes = points.depths.len() * points.columns.len();
    let steps = STORED.len() * shapes + MAPS.len() + 2 * points.dims.len();
    let mut done = 0;
    let mut told = |what| {
        progress(what, done, steps);
        done += 1;
    };
    let (boundary, maps) = bench.maps(&mut told)?;
    let mut products = vec![];
    for storage in STORED {
        products.push(bench.products(storage, &maps, boundary, &mut told)?);
    }
    let attention = [false, true].map(|cached| bench.attention(cached, boundary, &mut told));
    let attention = attention.into_iter().collect::<Result<_, _>>()?;
    // Weights of models come from memory, whatever their size.
    let largest = [points.depths.last(), points.columns.last()].map(|n| n.copied().unwrap_or(1));
    let time = products[0].far.at(&[1, largest[0], largest[1]]);
    let rate = (4 * largest[0] * largest[1]) as f64 / time.max(1.0);
    let reads = Grid::new(vec![vec![FAR]], vec![(1e6 / rate).round() as u64])?;
    Ok(machine.table(boundary, reads, products, maps, attention))
}

struct Bench<'a> {
    machine: &'a Machine,
    points: &'a Points,
}

impl Bench<'_> {
    fn most(&self) -> usize {
        self.points.rows.iter().max().copied().unwrap_or(1) as usize
    }

    fn probe(&self, program: Program, tokens: usize, decodes: bool) -> Result<Probe, Error> {
        let shape = Shape {
            context: tokens,
            vocabulary: tokens,
            decodes,
        };
        let (overlay, target) = (Overlay::default(), &self.machine.target);
        Probe::new(program, &overlay, &shape, target, None)
    }

    /// The middle time of a step of sequences, for each number of rows.
    fn steps(&self, program: Program) -> Result<Vec<u64>, Error> {
        let mut probe = self.probe(program, self.most(), false)?;
        let rows = self.points.rows.iter();
        rows.map(|m| self.median(&mut probe, |p| p.step(&[*m as usize])))
            .collect()
    }

    fn median(
        &self,
        probe: &mut Probe,
        mut step: impl FnMut(&mut Probe) -> Result<std::time::Duration, Error>,
    ) -> Result<u64, Error> {
        let mut times = vec![];
        for i in 0..WARM + self.points.runs {
            let time = step(probe)?;
            if i >= WARM {
                times.push(time);
            }
        }
        Ok(picoseconds(times))
    }

    /// What each of `count` kernels adds to a step that took `without` them.
    fn each(with: &[u64], without: &[u64], count: usize) -> Vec<u64> {
        let pairs = with.iter().zip(without);
        let share = pairs.map(|(with, without)| with.saturating_sub(*without) / count as u64);
        share.map(|time| time.max(1)).collect()
    }

    /// What a kernel that does next to nothing adds to a step; and maps, by elements and operations an element.
    fn maps(&self, told: &mut dyn FnMut(&'static str)) -> Result<(u64, Grid), Error> {
        let (rows, columns) = (&self.points.rows, self.points.elements);
        let without = self.steps(programs::maps(&[], self.most(), columns, 0, false))?;
        let mut times: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        let mut operations = vec![];
        for name in MAPS {
            told("maps");
            let program = programs::maps(&[name], self.most(), columns, COUNT, false);
            let mut probe = self.probe(program, self.most(), false)?;
            let each = operations_an_element(&probe);
            operations.push(each);
            for (m, without) in rows.iter().zip(&without) {
                let with = self.median(&mut probe, |p| p.step(&[*m as usize]))?;
                let time = Bench::each(&[with], &[*without], COUNT);
                times.insert((m * columns, each), time[0]);
            }
        }
        let boundary = times.values().min().copied().unwrap_or(1);
        operations.sort_unstable();
        let elements = rows.iter().map(|m| m * columns).collect();
        let grid = Grid::new(vec![elements, operations], times.into_values().collect())?;
        Ok((boundary, grid))
    }

    fn products(
        &self,
        storage: Storage,
        maps: &Grid,
        boundary: u64,
        told: &mut dyn FnMut(&'static str),
    ) -> Result<Products, Error> {
        let Points {
            rows,
            depths,
            columns,
            ..
        } = self.points;
        let mut times: BTreeMap<(u64, u64, u64), u64> = BTreeMap::new();
        let mut stored = (Codec::Plain(DType::F32), storage.codec);
        for k in depths {
            let without = programs::repeated(storage, self.most(), [*k, 1], 0)?;
            let without = self.steps(without)?;
            for n in columns {
                told("products");
                let bytes =
                    (storage.codec.panel(*k as usize) * storage.codec.panels(*n as usize)) as u64;
                let count = (FAR / bytes.max(1)).clamp(2, 64) as usize;
                let program = programs::repeated(storage, self.most(), [*k, *n], count)?;
                let mut probe = self.probe(program, self.most(), false)?;
                let product = probe.launches().find_map(|(_, core)| match core {
                    Core::Product(p) => Some((p.inputs, p.codec)),
                    _ => None,
                });
                stored = product.unwrap_or(stored);
                for (m, without) in rows.iter().zip(&without) {
                    let with = self.median(&mut probe, |p| p.step(&[*m as usize]))?;
                    let mut time = Bench::each(&[with], &[*without], count)[0];
                    // A map of its own rounds the rows, but a single one.
                    if storage.rows == Rows::Bf16 && *m > 1 {
                        let map = maps.at(&[m * k, 1]).round() as u64;
                        time = time.saturating_sub(map).max(boundary);
                    }
                    times.insert((*m, *k, *n), time);
                }
            }
        }
        let axes = vec![rows.clone(), depths.clone(), columns.clone()];
        let far = Grid::new(axes, times.into_values().collect())?;
        Ok(Products {
            inputs: stored.0,
            codec: stored.1,
            near: far.clone(),
            far,
        })
    }

    /// Attention of whole sequences, or of rows at the end of one that is kept.
    fn attention(
        &self,
        cached: bool,
        boundary: u64,
        told: &mut dyn FnMut(&'static str),
    ) -> Result<Scores, Error> {
        let Points { keys, dims, .. } = self.points;
        let rows = if cached { vec![1, 4, TILE] } else { vec![TILE] };
        let most = (keys.iter().max().copied().unwrap_or(1) + 2 * TILE) as usize;
        let mut times = BTreeMap::new();
        for dim in dims {
            told("attention");
            let mut probes = vec![];
            for layers in [1, 1 + COUNT] {
                let program = programs::attention(cached, most, HEADS, *dim as usize, layers);
                probes.push(self.probe(program, most, cached)?);
            }
            for n in keys {
                for m in &rows {
                    let mut taken = vec![];
                    for probe in &mut probes {
                        taken.push(self.median(probe, |p| attend(p, cached, *m, *n))?);
                    }
                    let time = Bench::each(&taken[1..], &taken[..1], COUNT)[0];
                    let whole = if cached { *m } else { (*n).max(TILE) };
                    let tiles = HEADS as u64 * whole.div_ceil(TILE);
                    let turns = tiles.div_ceil(self.machine.threads as u64);
                    let tile = (time.saturating_sub(boundary) / turns).max(1);
                    times.insert((*m, *n, *dim), tile);
                }
            }
        }
        let axes = vec![rows, keys.clone(), dims.clone()];
        Ok(Scores {
            dtype: DType::F32,
            cached,
            tile: Grid::new(axes, times.into_values().collect())?,
        })
    }
}

/// A step of attention: `rows` rows at the end of `keys` kept ones, or sequences of `keys` tokens.
fn attend(
    probe: &mut Probe,
    cached: bool,
    rows: u64,
    keys: u64,
) -> Result<std::time::Duration, Error> {
    if !cached {
        let sequences = TILE.div_ceil(keys).max(1) as usize;
        return probe.step(&vec![keys as usize; sequences]);
    }
    let depth = keys.saturating_sub(rows / 2) as u32;
    let ids: Vec<u32> = (0..depth.max(rows as u32)).collect();
    let step = |probe: &mut Probe, tokens: &[u32]| {
        let chunk = Chunk {
            sequence: 0,
            tokens,
            positions: None,
        };
        probe.session.step(&[chunk], Select::Last)?;
        Ok(())
    };
    probe.session.truncate(0, depth as usize)?;
    if probe.session.length(0)? < depth as usize {
        probe.session.reset(0)?;
        step(probe, &ids[..depth as usize])?;
    }
    probe.clocked(|probe| step(probe, &ids[..rows as usize]))
}

/// Of the last launch.
fn operations_an_element(probe: &Probe) -> u64 {
    let plan = probe.plan();
    let last = plan.launches.last();
    let work = last.map(|l| plan.work[l.kernel as usize].at(&|dim| dim.bound().unsigned_abs()));
    work.map_or(1, |w: Work| w.flops.div_ceil(w.elements.max(1)).max(1))
}
