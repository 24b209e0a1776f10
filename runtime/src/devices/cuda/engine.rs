//! A plan on a GPU: memory for its values, its launches with every address resolved, and steps that were run before as
//! graphs. One step is one copy in, the launches, one copy out for each output.

use super::{
    Cuda,
    driver::{Event, Graph, Grid, Memory, Pinned, Stream},
    fault::{self, failed},
    launch::{self, Launch},
    output::Output,
};
use crate::{
    Error,
    devices::{self, Part, Stop, polynomial::Polynomial},
};
use ir::{
    Dim,
    artifact::{Base, Image, Place, Plan, Port},
};
use std::{fmt, ops::Range, sync::Arc, time::Duration};

/// What memory holds before anything is written to it: under test, numbers that no kernel computes.
const FILL: u8 = if cfg!(feature = "testing") { 0xff } else { 0 };
/// Steps of different sizes that are kept as graphs.
const GRAPHS: usize = 8;
/// Alignment of each input in the copy, in bytes.
const ALIGNMENT: usize = 64;

/// What to do where a session does not fit.
const SHORTER: &str = "end what else uses the GPU, or ask for a shorter context or fewer sequences";

/// See [`devices::Engine`].
#[derive(Debug)]
pub(super) struct Engine {
    /// Before what they were made of, so that they go first.
    graphs: Vec<(Box<[i64]>, Graph)>,
    capacity: Box<[i64]>,
    dims: Box<[i64]>,
    /// Inputs, then the symbols' values, as one copy brings them to the GPU.
    staged: Pinned,
    arriving: Memory,
    /// First byte and `i32`s of each input in `staged`; the symbols' values lie behind the last.
    inputs: Vec<(usize, usize)>,
    symbols: usize,
    /// Of the plan's symbols, for messages.
    names: Box<[ir::Name]>,
    outputs: Vec<Output>,
    launches: Vec<Launch>,
    times: Option<Vec<Duration>>,
    events: Vec<Event>,
    /// The ends of a step, and the time between them of all steps since it was asked for.
    clock: Option<([Event; 2], Duration)>,
    /// What went wrong for good.
    broken: Option<String>,
    states: Vec<Memory>,
    arena: Memory,
    /// Held for their addresses: counters, scratch.
    _memory: [Memory; 2],
    stream: Stream,
    loaded: Arc<Cuda>,
}

impl Engine {
    pub fn new(
        loaded: Arc<Cuda>,
        plan: &Plan,
        image: &Image,
        capacity: &[i64],
    ) -> Result<Engine, Error> {
        let context = &loaded.context;
        let resolve = |dim: &Dim| {
            Polynomial::new(dim, &plan.symbols).map_err(|symbol| Error::Plan {
                what: "symbol",
                name: symbol.name.to_string(),
                known: "those that the plan declares".into(),
            })
        };
        let bytes = |port: &Port| {
            let elements = resolve(&port.ty.numel())?;
            let each = port.ty.dtype.bytes() as u64;
            Ok::<_, Error>((elements.at(capacity).saturating_mul(each), elements))
        };

        let (mut end, mut inputs) = (0, vec![]);
        for port in &plan.inputs {
            let len = bytes(port)?.0 as usize;
            inputs.push((end, len / size_of::<i32>()));
            end = (end + len).next_multiple_of(ALIGNMENT);
        }
        let symbols = end;
        let end = end + size_of_val(capacity);
        let mut all_ways = vec![];
        let (mut counters, mut scratch) = (0, 0);
        for launch in &plan.launches {
            let variants = &image.kernels[launch.kernel as usize].0;
            let mut ways = vec![];
            for variant in variants {
                let way = launch::way(variant, &loaded, resolve(&variant.tasks.rows)?, launch)?;
                if way.scratch > 0 {
                    let tasks = way.most_tasks(capacity);
                    counters = counters.max(tasks.saturating_mul(4));
                    scratch = scratch.max(tasks.saturating_mul(way.scratch));
                }
                ways.push(way);
            }
            all_ways.push(ways);
        }
        let all = |ports: &[Port]| {
            let mut sum = 0u64;
            for port in ports {
                sum = sum.saturating_add(bytes(port)?.0);
            }
            Ok::<_, Error>(sum)
        };
        let needs = [
            ("keys and values", all(&plan.states)?),
            ("values within a step", plan.arena),
            ("outputs", all(&plan.outputs)?),
            ("inputs", end as u64),
            ("scratch", scratch.saturating_add(counters)),
        ];
        let each: Vec<String> = needs.iter().map(|(of, n)| format!("{of} {n}")).collect();
        let sum = needs
            .iter()
            .fold(0u64, |sum, (_, n)| sum.saturating_add(*n));
        context.spare(
            format_args!("a session ({})", each.join(", ")),
            sum,
            SHORTER,
        )?;

        let staged = context.pinned(end, 0)?;
        let arriving = context.allocate("inputs", staged.bytes as u64, 0)?;
        let mut outputs = vec![];
        for (i, port) in plan.outputs.iter().enumerate() {
            outputs.push(Output::new(context, plan, i, bytes(port)?, FILL)?);
        }
        let mut states = vec![];
        for port in &plan.states {
            states.push(context.allocate(&format!("state {}", port.name), bytes(port)?.0, 0)?);
        }
        let arena = context.allocate("values within a step", plan.arena, FILL)?;

        let counters = context.allocate("counters", counters, 0)?;
        let scratch = context.allocate("scratch", scratch, FILL)?;
        let launches = plan
            .launches
            .iter()
            .zip(all_ways)
            .map(|(launch, mut ways)| {
                let operands = launch.operands.iter().map(|place| {
                    let base = match place.base {
                        Base::Arena => arena.address,
                        Base::Weights => loaded.weights.address,
                        Base::Input(i) => arriving.address + inputs[i as usize].0 as u64,
                        Base::Output(i) => outputs[i as usize].address(),
                        Base::State(i) => states[i as usize].address,
                    };
                    base.wrapping_add(place.offset)
                });
                let rest = [
                    arriving.address + symbols as u64,
                    counters.address,
                    scratch.address,
                    arriving.address,
                ];
                let words: Vec<u64> = operands.chain(rest).collect();
                for (way, variant) in ways
                    .iter_mut()
                    .zip(&image.kernels[launch.kernel as usize].0)
                {
                    way.args =
                        launch::arguments(context, launch, variant, &words, way.rows.at(capacity))?;
                }
                Ok::<_, Error>(Launch {
                    name: launch.name.clone(),
                    ways,
                })
            });
        Ok(Engine {
            graphs: Vec::with_capacity(GRAPHS),
            capacity: capacity.into(),
            dims: vec![-1; capacity.len()].into(),
            launches: launches.collect::<Result<_, _>>()?,
            stream: context.stream()?,
            staged,
            arriving,
            inputs,
            symbols,
            names: plan.symbols.iter().map(|s| s.name.clone()).collect(),
            outputs,
            times: None,
            events: vec![],
            clock: None,
            broken: None,
            states,
            arena,
            _memory: [counters, scratch],
            loaded,
        })
    }

    /// Queues a step: inputs in, launches, outputs out. `early` lets kernels overlap.
    fn queue(&self, early: bool) -> Result<(), Error> {
        self.arrive()?;
        self.launch(0..self.launches.len(), early)?;
        self.depart()
    }

    fn arrive(&self) -> Result<(), Error> {
        // SAFETY: all memory is the engine's; whoever queues a step waits for it before the host's side is touched.
        unsafe { self.stream.upload(&self.staged, &self.arriving)? };
        match self.times {
            Some(_) => self.stream.record(&self.events[0]),
            None => Ok(()),
        }
    }

    fn launch(&self, range: Range<usize>, early: bool) -> Result<(), Error> {
        for (i, launch) in range.clone().zip(&self.launches[range]) {
            let way = launch.way(&self.dims);
            let tasks = way.tasks(&self.dims).min(way.blocks);
            if tasks > 0 {
                let grid = Grid {
                    blocks: u32::try_from(tasks).unwrap_or(u32::MAX),
                    threads: way.threads,
                    shared: way.shared,
                    early: early && i > 0,
                };
                let kernel = &self.loaded.kernels[&way.entry];
                // SAFETY: the kernel is the compiler's and its operands are what its plan names, of the sizes the plan
                // says for symbols up to their capacity; the session vouches for the inputs. All of it is the
                // engine's, which drops its graphs first.
                unsafe { self.stream.launch(kernel, grid, &way.args) }
                    .map_err(failed(format_args!("launching {}", launch.name)))?;
            }
            if self.times.is_some() {
                self.stream.record(&self.events[i + 1])?;
            }
        }
        Ok(())
    }

    /// Waits for what was queued of a step.
    fn wait(&self) -> Result<(), Error> {
        let sizes = self.names.iter().zip(&self.dims);
        self.stream.wait(fmt::from_fn(|f| {
            f.write_str("running a step of")?;
            sizes
                .clone()
                .try_for_each(|(name, n)| write!(f, " {name} {n}"))
        }))
    }

    fn depart(&self) -> Result<(), Error> {
        for output in &self.outputs {
            // SAFETY: as in `arrive`.
            unsafe { output.depart(&self.stream, &self.dims)? };
        }
        Ok(())
    }

    /// A step with symbol `i` of the plan at `dims[i]`, done by `steps`, which is told whether the last one was as large.
    fn begin<T>(
        &mut self,
        dims: &[i64],
        steps: impl FnOnce(&mut Engine, bool) -> Result<T, Error>,
    ) -> Result<T, Error> {
        devices::check_capacity(dims, &self.capacity);
        fault::lost()?;
        if let Some(why) = &self.broken {
            return Err(Error::Gpu {
                what: "an earlier step failed".into(),
                why: format!("{why}; make a new session"),
            });
        }
        let again = *self.dims == *dims;
        self.dims.copy_from_slice(dims);
        // SAFETY: there is room for them behind the inputs; no step is running.
        let values = unsafe {
            std::slice::from_raw_parts_mut(
                self.staged.address.add(self.symbols).cast::<i64>(),
                dims.len(),
            )
        };
        values.copy_from_slice(dims);
        let bound = self.loaded.context.bind();
        let done = bound.and_then(|()| steps(self, again));
        if let Err(error) = &done {
            self.broken = Some(error.to_string());
        }
        done
    }

    /// A step that stops on the way.
    fn traced(&mut self, stops: &[Stop]) -> Result<Vec<Vec<Vec<f32>>>, Error> {
        self.arrive()?;
        let (mut done, mut seen) = (0, vec![]);
        for stop in stops {
            self.launch(done..stop.launches, false)?;
            done = stop.launches;
            self.wait()?;
            let values = stop.values.iter().map(|(p, n)| self.value(p, *n));
            seen.push(values.collect::<Result<_, _>>()?);
        }
        self.launch(done..self.launches.len(), false)?;
        self.depart()?;
        self.wait()?;
        Ok(seen)
    }

    /// The `elements` floats at a place that launches write to.
    fn value(&self, place: &Place, elements: usize) -> Result<Vec<f32>, Error> {
        let mut values = vec![0.0f32; elements];
        let first = place.offset as usize;
        match place.base {
            Base::Arena => {
                let bytes = bytemuck::cast_slice_mut(&mut values);
                self.arena.read(first, bytes)?;
            }
            Base::Output(i) => self.outputs[i as usize].read(first, &mut values)?,
            base => panic!("values of a step do not lie in {base:?}"),
        }
        Ok(values)
    }

    /// Runs a step that was run before as a graph, of which one is made when a size comes twice in a row.
    fn step(&mut self, again: bool) -> Result<(), Error> {
        let known = self.graphs.iter().position(|(d, _)| *d == self.dims);
        let at = match known {
            Some(at) => Some(at),
            None if again => {
                let graph = self.stream.capture(|| self.queue(true))?;
                if self.graphs.len() == GRAPHS {
                    self.graphs.remove(0);
                }
                self.graphs.push((self.dims.clone(), graph));
                Some(self.graphs.len() - 1)
            }
            None => None,
        };
        if let Some(([begin, _], _)) = &self.clock {
            self.stream.record(begin)?;
        }
        match at {
            // SAFETY: the graph captured the engine's own memory.
            Some(at) => unsafe { self.stream.replay(&self.graphs[at].1)? },
            None => self.queue(true)?,
        }
        if let Some(([_, end], _)) = &self.clock {
            self.stream.record(end)?;
        }
        self.wait()?;
        if let Some(([begin, end], sum)) = &mut self.clock {
            *sum += Duration::from_secs_f32(end.since(begin)?.max(0.0) / 1e3);
        }
        Ok(())
    }

    /// A step whose launches are timed one by one.
    fn measured(&mut self) -> Result<(), Error> {
        self.queue(false)?;
        self.wait()?;
        let times = self.times.iter_mut().flatten();
        for (time, pair) in times.zip(self.events.windows(2)) {
            *time += Duration::from_secs_f32(pair[1].since(&pair[0])?.max(0.0) / 1e3);
        }
        Ok(())
    }
}

impl devices::Engine for Engine {
    /// The host's, which only waits.
    fn threads(&self) -> usize {
        1
    }

    fn input(&mut self, i: usize) -> &mut [i32] {
        let (start, len) = self.inputs[i];
        // SAFETY: within the copy and aligned; no step is running.
        unsafe { std::slice::from_raw_parts_mut(self.staged.address.add(start).cast(), len) }
    }

    fn run(&mut self, dims: &[i64]) -> Result<(), Error> {
        self.begin(dims, |engine, again| match engine.times {
            Some(_) => engine.measured(),
            None => engine.step(again),
        })
    }

    fn trace(&mut self, dims: &[i64], stops: &[Stop]) -> Result<Vec<Vec<Vec<f32>>>, Error> {
        self.begin(dims, |engine, _| engine.traced(stops))
    }

    fn part(&mut self, _: &[i64], _: Part<'_>) -> Result<Vec<Vec<f32>>, Error> {
        Err(Error::Gpu {
            what: "running a layer by itself".into(),
            why: "only the CPU does that so far; calibrate there".into(),
        })
    }

    fn measure(&mut self, on: bool) {
        let launches = self.launches.len();
        self.times = on.then(|| vec![Duration::ZERO; launches]);
        while on && self.events.len() <= launches {
            match self.loaded.context.event() {
                Ok(event) => self.events.push(event),
                Err(error) => {
                    self.broken = Some(error.to_string());
                    return;
                }
            }
        }
    }

    fn times(&self) -> &[Duration] {
        self.times.as_deref().unwrap_or_default()
    }

    fn clock(&mut self) -> Result<(), Error> {
        let context = &self.loaded.context;
        self.clock = Some(([context.event()?, context.event()?], Duration::ZERO));
        Ok(())
    }

    fn elapsed(&self) -> Option<Duration> {
        self.clock.as_ref().map(|(_, sum)| *sum)
    }

    fn output(&self, i: usize) -> &[f32] {
        self.outputs[i].values(&self.dims)
    }

    fn fill(&mut self, byte: u8) -> Result<(), Error> {
        let filled = |state: &Memory| state.write(&vec![byte; state.bytes]);
        self.states.iter().try_for_each(filled)
    }

    #[cfg(feature = "testing")]
    fn state(&self, i: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.states[i].bytes];
        self.states[i].read(0, &mut bytes)?;
        Ok(bytes)
    }

    #[cfg(feature = "testing")]
    fn set_state(&mut self, i: usize, bytes: &[u8]) -> Result<(), Error> {
        self.states[i].write(bytes)
    }
}
