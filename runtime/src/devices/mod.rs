//! Where a plan runs: memory, code and launches of one kind of machine. All of the runtime's `unsafe` but the
//! kernels' is here. Devices know plans; they know nothing of tokens, sequences or tasks.

pub mod cpu;
pub mod cuda;
#[cfg(feature = "testing")]
pub mod evaluate;
pub(crate) mod memory;
mod polynomial;

pub use memory::Bytes;

use crate::Error;
use ir::{
    Target,
    artifact::{Image, Place, Plan},
};
use std::{fmt::Debug, ops::Range, sync::Arc, time::Duration};

/// A kind of machine that models run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// This computer's processor.
    #[default]
    Cpu,
    /// NVIDIA's GPUs.
    Cuda,
}

impl Device {
    /// What code for the target runs on.
    pub fn of(target: &Target) -> Device {
        match target.is_gpu() {
            true => Device::Cuda,
            false => Device::Cpu,
        }
    }

    /// The one that is here.
    ///
    /// # Errors
    /// There is no GPU, or none that can be used.
    pub fn host(self) -> Result<Target, Error> {
        match self {
            Device::Cpu => Ok(cpu::host()),
            Device::Cuda => cuda::host(),
        }
    }
}

/// What a step needs beside the plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room<'a> {
    /// Threads, where the device has any to choose.
    pub threads: usize,
    /// Largest value of each of the plan's symbols.
    pub capacity: &'a [i64],
}

/// Where to stop in a step, and what to look at there.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    /// Launches that have run by then.
    pub launches: usize,
    /// Values: where each lies, and how many floats it has.
    pub values: Vec<(Place, usize)>,
}

/// Some launches of a step, one after another, and the values before and after them.
pub(crate) struct Part<'a> {
    /// What earlier launches left that these read: where it lies, and what is there.
    pub given: &'a [(Place, &'a [f32])],
    /// Which, of the plan's.
    pub launches: Range<usize>,
    /// What to look at then: where each value lies, and how many floats it has.
    pub values: &'a [(Place, usize)],
}

/// A model's code and weights where they can run: immutable, shared by any number of engines.
pub(crate) trait Loaded: Debug + Send + Sync {
    /// The weights, where the processor reads them itself.
    fn weights(&self) -> Option<&[u8]>;

    /// Memory for a step in which symbol `i` of the plan is at most `room.capacity[i]`, and the addresses of
    /// everything.
    ///
    /// # Errors
    /// No memory, or a symbol that the plan does not declare.
    fn engine(
        self: Arc<Self>,
        plan: &Plan,
        image: &Image,
        room: Room<'_>,
    ) -> Result<Box<dyn Engine>, Error>;
}

/// What [`Engine::run`] promises of a step's sizes.
///
/// # Panics
/// A value is beyond the capacity, or there are more or fewer.
fn check_capacity(dims: &[i64], capacity: &[i64]) {
    let fits = |(d, c): (&i64, &i64)| (0..=*c).contains(d);
    assert!(
        dims.len() == capacity.len() && dims.iter().zip(capacity).all(fits),
        "{dims:?} is beyond {capacity:?}"
    );
}

/// A plan with memory of its own, ready to run. Not safe for arbitrary inputs: token ids, positions, rows and
/// intervals become addresses, so the session checks them before they get here.
pub(crate) trait Engine: Debug + Send + Sync {
    /// Threads that run it.
    fn threads(&self) -> usize;

    /// Input `i` of the plan, with room for the largest step.
    fn input(&mut self, i: usize) -> &mut [i32];

    /// Runs one step with symbol `i` of the plan at `dims[i]`. Allocates nothing.
    ///
    /// # Errors
    /// The device failed; what states and outputs hold then is unknown.
    ///
    /// # Panics
    /// Where a value is beyond the capacity the engine was made for.
    fn run(&mut self, dims: &[i64]) -> Result<(), Error>;

    /// Runs one step as [`Engine::run`] does and looks at values on the way: for each stop, those that it names.
    ///
    /// # Errors
    /// As [`Engine::run`].
    ///
    /// # Panics
    /// As [`Engine::run`]; or where a value lies beyond its memory, or in memory that launches do not write.
    fn trace(&mut self, dims: &[i64], stops: &[Stop]) -> Result<Vec<Vec<Vec<f32>>>, Error>;

    /// Runs a part of a step, of which other parts may never run. States are as the last part that wrote them left them.
    ///
    /// # Errors
    /// As [`Engine::run`], or a device that runs whole steps only.
    ///
    /// # Panics
    /// As [`Engine::trace`].
    fn part(&mut self, dims: &[i64], part: Part<'_>) -> Result<Vec<Vec<f32>>, Error>;

    /// Output `i` of the plan as the last step left it.
    fn output(&self, i: usize) -> &[f32];

    /// Measures each launch from now on, from zero, or stops.
    fn measure(&mut self, on: bool);

    /// What each launch took since measuring began; nothing where it has not.
    fn times(&self) -> &[Duration];

    /// Sums the time of the steps from now on by the device's own clock, from zero, where it has one.
    ///
    /// # Errors
    /// The device failed.
    fn clock(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// What steps took since [`Engine::clock`], copies in and out included.
    fn elapsed(&self) -> Option<Duration> {
        None
    }

    /// Makes every byte of every state `byte`.
    ///
    /// # Errors
    /// The device failed.
    fn fill(&mut self, byte: u8) -> Result<(), Error>;

    /// State `i` of the plan: zero at first, then as the last step left it.
    #[cfg(feature = "testing")]
    fn state(&self, i: usize) -> Result<Vec<u8>, Error>;

    /// Replaces state `i` of the plan.
    #[cfg(feature = "testing")]
    fn set_state(&mut self, i: usize, bytes: &[u8]) -> Result<(), Error>;
}
