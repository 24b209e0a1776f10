//! Where an output of steps lies. Knows no steps.

use super::driver::{Context, Memory, Pinned, Stream};
use crate::{
    Error,
    devices::{memory::Buffer, polynomial::Polynomial},
};
use ir::artifact::{Base, Plan};
use std::sync::Arc;

/// Bytes of an output up to which kernels write it to the host by themselves.
const WRITTEN: u64 = 4 << 20;

#[derive(Debug)]
enum Place {
    /// Memory of the host, to which kernels write over the bus while others of their blocks still compute.
    Host(Pinned),
    /// Memory of the GPU, copied when a step has ended.
    Gpu(Memory, Buffer),
}

/// An output, with room for the most that it can be.
#[derive(Debug)]
pub(super) struct Output {
    place: Place,
    elements: Polynomial,
}

impl Output {
    /// Number `i` of a plan's, of at most so many bytes, each of which is `fill` before anything is written.
    pub fn new(
        context: &Arc<Context>,
        plan: &Plan,
        i: usize,
        (bytes, elements): (u64, Polynomial),
        fill: u8,
    ) -> Result<Output, Error> {
        // A launch writes the last of its operands.
        let read = plan.launches.iter().any(|l| {
            let inputs = l.operands.split_last().map_or(&[][..], |(_, rest)| rest);
            inputs.iter().any(|p| p.base == Base::Output(i as u32))
        });
        let what = format!("output {}", plan.outputs[i].name);
        let place = match bytes {
            0..=WRITTEN if !read => Place::Host(context.pinned(bytes as usize, fill)?),
            _ => Place::Gpu(
                context.allocate(&what, bytes, fill)?,
                Buffer::zeroed(&what, bytes)?,
            ),
        };
        Ok(Output { place, elements })
    }

    /// Where kernels write it.
    pub fn address(&self) -> u64 {
        match &self.place {
            Place::Host(pinned) => pinned.address as u64,
            Place::Gpu(memory, _) => memory.address,
        }
    }

    /// Queues what brings that of a step to the host.
    ///
    /// # Safety
    /// As [`Stream::download`].
    pub unsafe fn depart(&self, stream: &Stream, dims: &[i64]) -> Result<(), Error> {
        let bytes = self.elements.at(dims) as usize * size_of::<f32>();
        match &self.place {
            // SAFETY: the caller's; the host's side has room for the capacity.
            Place::Gpu(memory, host) if bytes > 0 => unsafe {
                stream.download(memory, host.address(), bytes)
            },
            _ => Ok(()),
        }
    }

    /// What the last step left, once the GPU is idle.
    pub fn values(&self, dims: &[i64]) -> &[f32] {
        let (from, bytes) = match &self.place {
            Place::Host(pinned) => (pinned.address, pinned.bytes),
            Place::Gpu(memory, host) => (host.address(), memory.bytes),
        };
        let len = self.elements.at(dims) as usize;
        assert!(
            len <= bytes / size_of::<f32>(),
            "an output outgrew its capacity"
        );
        // SAFETY: the memory is as long and aligned, and no step is running.
        unsafe { std::slice::from_raw_parts(from.cast(), len) }
    }

    /// Floats from byte `first` on, as kernels see them, once the GPU is idle.
    pub fn read(&self, first: usize, values: &mut [f32]) -> Result<(), Error> {
        match &self.place {
            Place::Host(pinned) => {
                let (first, len) = (first / size_of::<f32>(), pinned.bytes / size_of::<f32>());
                // SAFETY: as in `values`.
                let all = unsafe { std::slice::from_raw_parts(pinned.address.cast::<f32>(), len) };
                values.copy_from_slice(&all[first..][..values.len()]);
                Ok(())
            }
            Place::Gpu(memory, _) => memory.read(first, bytemuck::cast_slice_mut(values)),
        }
    }
}
