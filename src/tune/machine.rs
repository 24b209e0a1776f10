//! What tells machines apart whose kernels take different times.

use super::Error;
use compiler::optimize::cost::{CostTable, Grid, Products, Scores};
use ir::{Target, abi::ABI_VERSION};
use runtime::{
    devices::{Device, cpu, cuda},
    pool::default_threads,
};

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What its code is compiled for.
    pub target: Target,
    /// The processor or GPU.
    pub name: String,
    /// Threads of a processor, multiprocessors of a GPU.
    pub threads: usize,
}

impl Machine {
    /// This processor, of so many threads, by default one a core.
    pub fn cpu(threads: Option<usize>) -> Machine {
        Machine {
            target: cpu::host(),
            name: processor(),
            threads: threads.unwrap_or_else(default_threads),
        }
    }

    /// The device that is here, of so many threads where it has any to choose.
    ///
    /// # Errors
    /// There is no such device.
    pub fn here(device: Device, threads: Option<usize>) -> Result<Machine, Error> {
        Ok(match device {
            Device::Cpu => Machine::cpu(threads),
            Device::Cuda => {
                let gpu = cuda::gpu()?;
                Machine {
                    target: device.host()?,
                    name: gpu.name,
                    threads: gpu.multiprocessors,
                }
            }
        })
    }

    /// The one that is here, if code for `target` is what it would be given; `None` where such code runs elsewhere.
    pub fn of(target: &Target) -> Option<Machine> {
        let here = Machine::here(Device::of(target), None).ok()?;
        (here.target == *target).then_some(here)
    }

    /// What was measured on it.
    pub(super) fn table(
        &self,
        boundary: u64,
        reads: Grid,
        products: Vec<Products>,
        maps: Grid,
        attention: Vec<Scores>,
    ) -> CostTable {
        CostTable {
            kernels: ABI_VERSION,
            compiler: env!("CARGO_PKG_VERSION").into(),
            machine: self.name.clone(),
            threads: self.threads,
            boundary,
            reads,
            products,
            maps,
            attention,
        }
    }

    /// All that counts, in a line.
    pub(crate) fn key(&self) -> String {
        format!("{} / {} / {} threads", self.name, self.target, self.threads)
    }
}

/// The processor's name, as the system tells it.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|l| l.starts_with("model name"));
    let name = line
        .and_then(|l| l.split_once(':'))
        .map(|(_, name)| name.trim());
    name.unwrap_or("an unknown processor").into()
}
