//! The processor this runs on: what it has, executable memory for checked code, and the launches of a step.

use super::{
    Loaded, Part, Room, Stop, check_capacity,
    memory::{Buffer, Bytes},
    polynomial::Polynomial,
};
use crate::{Error, kernels, pool::Pool};
use ir::{
    Dim, Target,
    abi::{Env, KernelFn, SCRATCH_BYTES},
    artifact::{ArtifactError, Base, Image, Place, Plan, Port, Sections, Workers},
};
use memmap2::{Mmap, MmapMut};
use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

/// This machine: its architecture, and those of [`Target::known_features`] that it has.
pub fn host() -> Target {
    let features = Target::known_features()
        .filter(|f| has(f))
        .map(str::to_string);
    Target {
        arch: std::env::consts::ARCH.into(),
        features: features.collect(),
    }
}

#[cfg(target_arch = "x86_64")]
fn has(feature: &str) -> bool {
    /// The macro wants literals, so each name is listed.
    macro_rules! detect {
        ($($name:tt)*) => { match feature { $($name => is_x86_feature_detected!($name),)* _ => false } };
    }
    detect!("sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt"
        "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512vnni" "avx512bf16" "avxvnni")
}

#[cfg(not(target_arch = "x86_64"))]
fn has(_: &str) -> bool {
    false
}

/// Machine code in memory of its own, readable and executable, never writable again.
#[derive(Debug)]
pub(crate) struct Code(Mmap);

impl Code {
    /// Copies the code in `file`, checks the copy and makes it executable.
    ///
    /// # Errors
    /// A digest that does not match, or no memory; `origin` is the artifact's name.
    fn load(origin: &str, file: &[u8], sections: &Sections) -> Result<Code, Error> {
        let damaged = |source: ArtifactError| Error::Artifact {
            origin: origin.into(),
            source,
        };
        let section = sections.code;
        let bytes = section.of("code", file).map_err(damaged)?;
        let failed = |source| Error::Io {
            what: format!("{} bytes of memory for code", bytes.len()),
            source,
        };
        let mut memory = MmapMut::map_anon(bytes.len().max(1)).map_err(failed)?;
        memory[..bytes.len()].copy_from_slice(bytes);
        section
            .check("code", &memory[..bytes.len()])
            .map_err(damaged)?;
        memory.make_exec().map(Code).map_err(failed)
    }

    /// Address of the kernel at `entry`.
    fn kernel(&self, entry: u64) -> KernelFn {
        let entry = &self.0[entry as usize];
        // SAFETY: the code has been checked against its digest and the compiler promises a kernel at each entry of
        // the plan; `Engine` keeps the mapping as long as it calls it.
        unsafe { std::mem::transmute::<*const u8, KernelFn>(entry) }
    }
}

/// See [`Loaded`].
#[derive(Debug)]
pub(crate) struct Cpu {
    code: Code,
    weights: Weights,
}

/// Weights are `len` of the bytes, from `offset`.
#[derive(Debug)]
struct Weights {
    bytes: Bytes,
    offset: usize,
    len: usize,
}

impl Cpu {
    /// Code and weights of an artifact, checked.
    ///
    /// # Errors
    /// Damage, or no memory; `origin` is the artifact's name.
    pub fn load(origin: &str, bytes: Bytes, sections: &Sections) -> Result<Cpu, Error> {
        let code = Code::load(origin, &bytes, sections)?;
        let damaged = |source| Error::Artifact {
            origin: origin.into(),
            source,
        };
        let weights = sections.weights;
        weights.of("weights", &bytes).map_err(damaged)?;
        let range = weights.offset as usize..(weights.offset + weights.len) as usize;
        let (bytes, offset) = bytes.weights(range)?;
        let len = weights.len as usize;
        let there = &bytes[offset..][..len];
        weights.check("weights", there).map_err(damaged)?;
        bytes.checked(offset..offset + len);
        let weights = Weights { bytes, offset, len };
        Ok(Cpu { code, weights })
    }

    /// Address of the first weight.
    fn weights(&self) -> *const u8 {
        self.weights.bytes[self.weights.offset..].as_ptr()
    }
}

impl Loaded for Cpu {
    fn weights(&self) -> Option<&[u8]> {
        let Weights { bytes, offset, len } = &self.weights;
        Some(&bytes[*offset..][..*len])
    }

    fn engine(
        self: Arc<Self>,
        plan: &Plan,
        image: &Image,
        room: Room<'_>,
    ) -> Result<Box<dyn super::Engine>, Error> {
        Ok(Box::new(Engine::new(self, plan, image, room)?))
    }
}

/// A launch whose addresses are known. Its operands are `args[first..]`.
#[derive(Debug)]
struct Launch {
    kernel: KernelFn,
    first: usize,
    rows: Polynomial,
    rows_per_task: u64,
    columns: u64,
    grain: u64,
}

impl Launch {
    /// As [`Tasks::count`](ir::artifact::Tasks::count).
    fn tasks(&self, dims: &[i64]) -> u64 {
        self.rows.at(dims).div_ceil(self.rows_per_task) * self.columns
    }
}

/// See [`super::Engine`].
#[derive(Debug)]
struct Engine {
    pool: Pool,
    /// Largest value of each of the plan's symbols that the memory has room for.
    capacity: Box<[i64]>,
    dims: Box<[i64]>,
    inputs: Vec<Buffer>,
    outputs: Vec<(Buffer, Polynomial)>,
    args: Box<[*mut u8]>,
    launches: Vec<Launch>,
    envs: Envs,
    /// What each launch took so far, where that is measured.
    times: Option<Vec<Duration>>,
    states: Vec<Buffer>,
    arena: Buffer,
    /// Held for their addresses: scratch, code and weights.
    _memory: (Buffer, Arc<Cpu>),
}

/// One [`Env`] a thread.
#[derive(Debug)]
struct Envs(Box<[Env]>);

// SAFETY: an `Env` is read only; the scratch memory it points to is used only by the thread whose number it has, and
// the table and dims are not written while kernels run.
unsafe impl Sync for Envs {}
// SAFETY: as above; what it points to is owned by the `Engine` or static.
unsafe impl Send for Envs {}
// SAFETY: the addresses in `args` and `envs` are of memory that the engine owns or that `Cpu` holds read-only, and they are used only under `&mut self`.
unsafe impl Send for Engine {}
// SAFETY: `&self` gives outputs to read, which only `&mut self` changes.
unsafe impl Sync for Engine {}

/// Operands and environments as the threads of a region share them.
struct Shared<'a> {
    kernel: KernelFn,
    args: *const *mut u8,
    envs: &'a [Env],
}
// SAFETY: see `Envs`; `args` is not written after it is made.
unsafe impl Sync for Shared<'_> {}

impl Shared<'_> {
    fn run(&self, thread: usize, begin: u64, end: u64) {
        // SAFETY: the kernel is the compiler's and its operands are what its plan names, of the sizes the plan says
        // for symbols up to their capacity; the session vouches for the inputs. Tasks are independent, and `thread`
        // differs between threads, so nothing is written twice at a time.
        unsafe { (self.kernel)(self.args, &self.envs[thread], begin, end) }
    }
}

impl Engine {
    fn new(
        loaded: Arc<Cpu>,
        plan: &Plan,
        image: &Image,
        Room { threads, capacity }: Room<'_>,
    ) -> Result<Engine, Error> {
        let resolve = |dim: &Dim| {
            Polynomial::new(dim, &plan.symbols).map_err(|symbol| Error::Plan {
                what: "symbol",
                name: symbol.name.to_string(),
                known: "those that the plan declares".into(),
            })
        };
        let port = |kind: &str, port: &Port| {
            // A step may have any size up to the capacity; what lies in blocks has whole ones.
            let whole: Vec<i64> = capacity
                .iter()
                .map(|n| port.rows(usize::try_from(*n).unwrap_or(0)) as i64)
                .collect();
            let bytes = resolve(&port.bytes())?.at(&whole);
            Ok::<_, Error>((
                Buffer::zeroed(&format!("{kind} {}", port.name), bytes)?,
                resolve(&port.ty.numel())?,
            ))
        };
        let ports = |kind, list: &[Port]| {
            list.iter()
                .map(|p| port(kind, p))
                .collect::<Result<Vec<_>, _>>()
        };
        let inputs: Vec<Buffer> = ports("input", &plan.inputs)?
            .into_iter()
            .map(|p| p.0)
            .collect();
        let outputs = ports("output", &plan.outputs)?;
        let states: Vec<Buffer> = ports("state", &plan.states)?
            .into_iter()
            .map(|p| p.0)
            .collect();
        let arena = Buffer::zeroed("values within a step", plan.arena)?;

        let (mut args, mut launches) = (vec![], vec![]);
        for launch in &plan.launches {
            // The loader has seen that there is one, for any number of rows.
            let variant = &image.kernels[launch.kernel as usize].0[0];
            let Workers::Threads { grain } = variant.workers else {
                return Err(Error::Plan {
                    what: "kernel",
                    name: format!("{} for {:?}", launch.name, variant.workers),
                    known: "kernels for threads".into(),
                });
            };
            launches.push(Launch {
                kernel: loaded.code.kernel(image.offset + variant.entry),
                first: args.len(),
                rows: resolve(&variant.tasks.rows)?,
                rows_per_task: variant.tasks.rows_per_task.max(1),
                columns: variant.tasks.columns,
                grain,
            });
            args.extend(launch.operands.iter().map(|place| {
                let base = match place.base {
                    Base::Arena => arena.address(),
                    Base::Weights => loaded.weights().cast_mut(),
                    Base::Input(i) => inputs[i as usize].address(),
                    Base::Output(i) => outputs[i as usize].0.address(),
                    Base::State(i) => states[i as usize].address(),
                };
                base.wrapping_add(place.offset as usize)
            }));
        }

        let pool = Pool::new(threads);
        let scratch = Buffer::zeroed("scratch", (pool.threads() * SCRATCH_BYTES) as u64)?;
        let dims: Box<[i64]> = vec![0; capacity.len()].into();
        let env = |thread: usize| Env {
            table: kernels::table(),
            dims: dims.as_ptr(),
            scratch: scratch.address().wrapping_add(thread * SCRATCH_BYTES),
        };
        let envs = Envs((0..pool.threads()).map(env).collect());
        Ok(Engine {
            pool,
            capacity: capacity.into(),
            dims,
            inputs,
            outputs,
            args: args.into(),
            launches,
            envs,
            times: None,
            states,
            arena,
            _memory: (scratch, loaded),
        })
    }

    /// Begins a step with symbol `i` of the plan at `dims[i]`.
    fn begin(&mut self, dims: &[i64]) {
        check_capacity(dims, &self.capacity);
        self.dims.copy_from_slice(dims);
    }

    /// Runs some of the plan's launches, each of a step's once and in order.
    fn launch(&mut self, range: Range<usize>) {
        for (i, launch) in range.clone().zip(&self.launches[range]) {
            let start = self.times.is_some().then(Instant::now);
            let shared = Shared {
                kernel: launch.kernel,
                args: self.args[launch.first..].as_ptr(),
                envs: &self.envs.0,
            };
            let tasks = launch.tasks(&self.dims);
            self.pool.run(tasks, launch.grain, &|thread, begin, end| {
                shared.run(thread, begin, end)
            });
            if let (Some(times), Some(start)) = (&mut self.times, start) {
                times[i] += start.elapsed();
            }
        }
    }

    /// The address of the `elements` floats at a place that launches write to.
    fn address(&self, place: &Place, elements: usize) -> *mut f32 {
        let buffer = match place.base {
            Base::Arena => &self.arena,
            Base::Output(i) => &self.outputs[i as usize].0,
            base => panic!("values of a step do not lie in {base:?}"),
        };
        let first = place.offset as usize;
        let end = elements
            .saturating_mul(size_of::<f32>())
            .saturating_add(first);
        assert!(
            end <= buffer.len() && first.is_multiple_of(size_of::<f32>()),
            "{elements} elements at {place:?}, of {} bytes there",
            buffer.len()
        );
        buffer.address().wrapping_add(first).cast()
    }

    /// The `elements` floats at a place that launches write to.
    fn value(&self, place: &Place, elements: usize) -> &[f32] {
        // SAFETY: the memory is a buffer's of the engine, aligned and long enough; kernels that write it run only under
        // `&mut self`.
        unsafe { std::slice::from_raw_parts(self.address(place, elements), elements) }
    }
}

impl super::Engine for Engine {
    fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn input(&mut self, i: usize) -> &mut [i32] {
        let buffer = &self.inputs[i];
        // SAFETY: the memory is the buffer's, aligned to pages; kernels that read it run only under `&mut self`.
        unsafe {
            std::slice::from_raw_parts_mut(buffer.address().cast(), buffer.len() / size_of::<i32>())
        }
    }

    fn fill(&mut self, byte: u8) -> Result<(), Error> {
        for state in &self.states {
            // SAFETY: as in `input`.
            unsafe { std::ptr::write_bytes(state.address(), byte, state.len()) }
        }
        Ok(())
    }

    #[cfg(feature = "testing")]
    fn state(&self, i: usize) -> Result<Vec<u8>, Error> {
        let buffer = &self.states[i];
        // SAFETY: as in `input`.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.address().cast(), buffer.len()) };
        Ok(bytes.to_vec())
    }

    #[cfg(feature = "testing")]
    fn set_state(&mut self, i: usize, bytes: &[u8]) -> Result<(), Error> {
        let buffer = &self.states[i];
        // SAFETY: as in `input`.
        let state: &mut [u8] =
            unsafe { std::slice::from_raw_parts_mut(buffer.address().cast(), buffer.len()) };
        state[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn run(&mut self, dims: &[i64]) -> Result<(), Error> {
        self.begin(dims);
        self.launch(0..self.launches.len());
        Ok(())
    }

    fn trace(&mut self, dims: &[i64], stops: &[Stop]) -> Result<Vec<Vec<Vec<f32>>>, Error> {
        self.begin(dims);
        let (mut done, mut seen) = (0, vec![]);
        for stop in stops {
            self.launch(done..stop.launches);
            done = stop.launches;
            let values = stop.values.iter();
            seen.push(values.map(|(p, n)| self.value(p, *n).to_vec()).collect());
        }
        self.launch(done..self.launches.len());
        Ok(seen)
    }

    fn part(&mut self, dims: &[i64], part: Part<'_>) -> Result<Vec<Vec<f32>>, Error> {
        self.begin(dims);
        for (place, values) in part.given {
            let to = self.address(place, values.len());
            // SAFETY: the memory is a buffer's of the engine, aligned and long enough; no kernel is running.
            unsafe { std::slice::from_raw_parts_mut(to, values.len()) }.copy_from_slice(values);
        }
        self.launch(part.launches);
        let values = part.values.iter();
        Ok(values.map(|(p, n)| self.value(p, *n).to_vec()).collect())
    }

    fn measure(&mut self, on: bool) {
        self.times = on.then(|| vec![Duration::ZERO; self.launches.len()]);
    }

    fn times(&self) -> &[Duration] {
        self.times.as_deref().unwrap_or_default()
    }

    fn output(&self, i: usize) -> &[f32] {
        let (buffer, elements) = &self.outputs[i];
        let len = elements.at(&self.dims) as usize;
        assert!(
            len <= buffer.len() / size_of::<f32>(),
            "an output outgrew its capacity"
        );
        // SAFETY: the memory is the buffer's and long enough; kernels that write it run only under `&mut self`.
        unsafe { std::slice::from_raw_parts(buffer.address().cast(), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_feature_that_targets_speak_of_can_be_detected() {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags: Vec<&str> = flags
            .lines()
            .find(|l| l.starts_with("flags"))
            .unwrap()
            .split(' ')
            .collect();
        for feature in Target::known_features() {
            // The kernel's names for the same bits.
            let flag = match feature {
                "sse3" => "pni".into(),
                "lzcnt" => "abm".into(),
                f => f.replace('.', "_"),
            };
            assert_eq!(host().has(feature), flags.contains(&&*flag), "{feature}");
        }
    }
}
