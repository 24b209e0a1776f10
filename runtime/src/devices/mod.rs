//! Where a plan runs: memory, code and launches of one kind of machine. All of the runtime's `unsafe` but the
//! kernels' is here. Devices know plans; they know nothing of tokens, sequences or tasks.

pub mod cpu;
#[cfg(feature = "testing")]
pub mod evaluate;
pub(crate) mod memory;
mod polynomial;

pub use memory::Bytes;
