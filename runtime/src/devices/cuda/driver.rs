//! The CUDA driver's objects as owned values: context, memory, kernels, streams, graphs, events. Opened at run time; a
//! missing driver is an error. Knows nothing of plans.

use super::{
    fault::{self, failed},
    library,
};
use crate::Error;
use cudarc::driver::{result, sys};
use ir::{abi::cuda::ENTRY, artifact::TensorMap};
use std::{
    ffi::{CString, c_void},
    fmt::Display,
    sync::{Arc, Mutex, PoisonError},
};

/// A GPU, by its primary context.
#[derive(Debug)]
pub(super) struct Context {
    context: sys::CUcontext,
    device: sys::CUdevice,
    /// For what happens outside of steps. Never the default stream: what waits for that breaks the recording of a step
    /// on another thread.
    setup: sys::CUstream,
    /// Multiprocessors.
    pub processors: u32,
    /// Compute capability.
    pub capability: (i32, i32),
}

// SAFETY: contexts, memory, modules and graphs may be used from any thread; the driver locks what it shares.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// The first GPU that the process sees. Kept until the process ends: making a context takes a while.
    pub fn open() -> Result<Arc<Context>, Error> {
        static OPEN: Mutex<Option<Arc<Context>>> = Mutex::new(None);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let context = match &*open {
            Some(context) => Arc::clone(context),
            None => Arc::new(Context::new()?),
        };
        *open = Some(Arc::clone(&context));
        context.bind()?;
        Ok(context)
    }

    fn new() -> Result<Context, Error> {
        const NONE: &str = "no GPU can be used";
        if let Some(why) = library::lacking() {
            return Err(Error::Gpu {
                what: NONE.into(),
                why,
            });
        }
        result::init().map_err(failed(format_args!("{NONE}: starting the driver")))?;
        let count = result::device::get_count().map_err(failed("counting GPUs"))?;
        if count == 0 {
            return Err(failed(NONE)(result::DriverError(
                sys::CUresult::CUDA_ERROR_NO_DEVICE,
            )));
        }
        let device = result::device::get(0).map_err(failed("opening GPU 0"))?;
        let attribute = |which| {
            // SAFETY: the device exists.
            unsafe { result::device::get_attribute(device, which) }
                .map_err(failed("asking GPU 0 what it is"))
        };
        use sys::CUdevice_attribute as Which;
        let processors = attribute(Which::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let major = attribute(Which::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Which::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        // SAFETY: the device exists; the context is released when dropped.
        let context = unsafe { result::primary_ctx::retain(device) }
            .map_err(failed(format_args!("{NONE}: making a context on GPU 0")))?;
        let mut context = Context {
            context,
            device,
            setup: std::ptr::null_mut(),
            processors: processors.unsigned_abs(),
            capability: (major, minor),
        };
        context.bind()?;
        context.setup = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("making a stream"))?;
        Ok(context)
    }

    /// Makes it the calling thread's.
    pub fn bind(&self) -> Result<(), Error> {
        fault::lost()?;
        // SAFETY: the context is retained as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("choosing GPU 0"))
    }

    /// As NVIDIA calls it.
    pub fn name(&self) -> String {
        result::device::get_name(self.device).unwrap_or_else(|_| "unknown".into())
    }

    /// The newest CUDA that the driver speaks, e.g. 13.0.
    pub fn driver(&self) -> (i32, i32) {
        library::version()
    }

    /// Bytes free, and in all.
    pub fn memory(&self) -> Result<(u64, u64), Error> {
        self.bind()?;
        let (free, total) = result::mem_get_info().map_err(failed("asking for free memory"))?;
        Ok((free as u64, total as u64))
    }

    /// Whether so many bytes are free, for `what`; where not, `remedy` says what to do besides ending other programs.
    pub fn spare(&self, what: impl Display, bytes: u64, remedy: &'static str) -> Result<(), Error> {
        let (free, total) = self.memory()?;
        match bytes <= free {
            true => Ok(()),
            false => Err(Error::GpuMemory {
                what: what.to_string(),
                needed: bytes,
                free,
                total,
                remedy,
            }),
        }
    }

    /// Memory on the GPU for `what`, every byte of it `fill`.
    pub fn allocate(self: &Arc<Self>, what: &str, bytes: u64, fill: u8) -> Result<Memory, Error> {
        self.bind()?;
        let len = usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
        // SAFETY: owned by `Memory`, which frees it.
        let address = match unsafe { result::malloc_sync(len) } {
            Ok(address) => address,
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = self.memory()?;
                return Err(Error::GpuMemory {
                    what: what.into(),
                    needed: bytes,
                    free,
                    total,
                    remedy: "what is free may lie in pieces, or another program took it meanwhile",
                });
            }
            Err(e) => {
                let what = format_args!("allocating {bytes} bytes of the GPU's memory for {what}");
                return Err(failed(what)(e));
            }
        };
        let memory = Memory {
            context: Arc::clone(self),
            address,
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
        };
        // SAFETY: the memory is as long.
        unsafe { result::memset_d8_async(address, fill, len, self.setup) }
            .map_err(failed(format_args!("clearing {what}")))?;
        self.settle()?;
        Ok(memory)
    }

    /// Waits for copies and clearing.
    fn settle(&self) -> Result<(), Error> {
        // SAFETY: the stream exists as long as the context.
        unsafe { result::stream::synchronize(self.setup) }.map_err(failed("waiting for the GPU"))
    }

    /// Memory of the host that the GPU copies from and to by itself, and kernels reach at the same address.
    pub fn pinned(self: &Arc<Self>, bytes: usize, fill: u8) -> Result<Pinned, Error> {
        self.bind()?;
        // SAFETY: owned by `Pinned`, which frees it.
        let address = unsafe { result::malloc_host(bytes.max(1), sys::CU_MEMHOSTALLOC_DEVICEMAP) }
            .map_err(failed(format_args!(
                "pinning {bytes} bytes of the host's memory"
            )))?;
        // SAFETY: as long as asked for.
        unsafe { address.cast::<u8>().write_bytes(fill, bytes.max(1)) };
        Ok(Pinned {
            context: Arc::clone(self),
            address: address.cast(),
            bytes,
        })
    }

    /// The kernel in a cubin; `what` says that it is loaded.
    pub fn kernel(self: &Arc<Self>, cubin: &[u8], what: &str) -> Result<Kernel, Error> {
        self.bind()?;
        // Aligned as an ELF file wants it.
        let mut image = vec![0u64; cubin.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut image)[..cubin.len()].copy_from_slice(cubin);
        let (major, minor) = self.driver();
        let what = format_args!("{what} with a driver for CUDA {major}.{minor}");
        // SAFETY: the image is a whole cubin, checked against its digest, and is copied by the call.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let module = module.map_err(failed(what))?;
        let name = CString::new(ENTRY).unwrap_or_default();
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(module, name) };
        let kernel = Kernel {
            context: Arc::clone(self),
            module,
            function: function.as_ref().copied().unwrap_or(std::ptr::null_mut()),
        };
        let function = function.map_err(failed("finding a kernel's entry"))?;
        // All alike: a multiprocessor divides its memory anew only once it is idle, and the next kernel would wait for that.
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT as SHARE;
        // SAFETY: the function is loaded.
        unsafe { result::function::set_function_attribute(function, SHARE, 100) }
            .map_err(failed("preferring shared memory"))?;
        Ok(kernel)
    }

    /// How tiles of what lies at `base` are copied, see [`ir::abi::cuda`].
    pub fn tensor_map(
        &self,
        map: &TensorMap,
        base: u64,
        rows: u64,
    ) -> Result<[u64; 16], result::DriverError> {
        use sys::{CUtensorMapDataType as Element, CUtensorMapSwizzle as Swizzle};
        let shape = map.shape.map(|n| if n == 0 { rows.max(1) } else { n });
        let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: the driver fills the map in from arrays of as many sizes as there are axes, less one stride; it reads nothing
        // at `base`.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut encoded,
                match map.element {
                    2 => Element::CU_TENSOR_MAP_DATA_TYPE_UINT16,
                    _ => Element::CU_TENSOR_MAP_DATA_TYPE_UINT32,
                },
                shape.len() as u32,
                base as *mut c_void,
                shape.as_ptr(),
                map.strides.as_ptr(),
                map.tile.as_ptr(),
                [1; 3].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                match map.permuted {
                    true => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                    false => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
                },
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()?;
        }
        Ok(encoded.opaque)
    }

    /// A queue of work.
    pub fn stream(self: &Arc<Self>) -> Result<Stream, Error> {
        self.bind()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("making a stream"))?;
        Ok(Stream {
            context: Arc::clone(self),
            stream,
        })
    }

    /// A point in time.
    pub fn event(self: &Arc<Self>) -> Result<Event, Error> {
        self.bind()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
            .map_err(failed("making an event"))?;
        Ok(Event {
            context: Arc::clone(self),
            event,
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made and retained when `self` was; everything made in it holds an `Arc` of it.
        unsafe {
            if !self.setup.is_null() {
                let _ = result::stream::destroy(self.setup);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// Types that hold a driver's object and give it back. A failure to do so has nobody to be told to.
macro_rules! owned {
    ($($Type:ident . $field:ident: $free:expr;)*) => {
        $(
            // SAFETY: see `Context`; what it points to changes under `&mut` or on the GPU alone.
            unsafe impl Send for $Type {}
            // SAFETY: as above.
            unsafe impl Sync for $Type {}

            impl Drop for $Type {
                fn drop(&mut self) {
                    if self.context.bind().is_ok() {
                        // SAFETY: made by the driver, owned by `self`, and not used again.
                        let _ = unsafe { $free(self.$field) };
                    }
                }
            }
        )*
    };
}
owned! {
    Memory.address: result::free_sync;
    Pinned.address: |p: *mut u8| result::free_host(p.cast());
    Kernel.module: result::module::unload;
    Stream.stream: result::stream::destroy;
    Event.event: result::event::destroy;
    Graph.graph: result::graph::exec_destroy;
}

/// Memory on the GPU.
#[derive(Debug)]
pub(super) struct Memory {
    context: Arc<Context>,
    /// As kernels see it.
    pub address: u64,
    /// As asked for.
    pub bytes: usize,
}

impl Memory {
    /// Replaces the first bytes, once the GPU is idle.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        assert!(bytes.len() <= self.bytes, "a copy beyond its memory");
        self.context.bind()?;
        // SAFETY: the memory is as long.
        unsafe { result::memcpy_htod_async(self.address, bytes, self.context.setup) }.map_err(
            failed(format_args!("copying {} bytes to the GPU", bytes.len())),
        )?;
        self.context.settle()
    }

    /// The bytes from `first` on, once the GPU is idle.
    pub fn read(&self, first: usize, to: &mut [u8]) -> Result<(), Error> {
        let end = first.saturating_add(to.len());
        assert!(end <= self.bytes, "a copy beyond its memory");
        self.context.bind()?;
        let (from, len) = (self.address + first as u64, to.len());
        // SAFETY: the memory is as long.
        unsafe { result::memcpy_dtoh_async(to, from, self.context.setup) }
            .map_err(failed(format_args!("copying {len} bytes from the GPU")))?;
        self.context.settle()
    }
}

/// See [`Context::pinned`].
#[derive(Debug)]
pub(super) struct Pinned {
    context: Arc<Context>,
    pub address: *mut u8,
    pub bytes: usize,
}

/// A kernel, loaded.
#[derive(Debug)]
pub(super) struct Kernel {
    context: Arc<Context>,
    module: sys::CUmodule,
    function: sys::CUfunction,
}

impl Kernel {
    /// Lets blocks have so many bytes of shared memory beside what the code declares; for `launch`, in messages.
    pub fn allow_shared(&self, bytes: u32, launch: &str) -> Result<(), Error> {
        /// What every kernel may have.
        const ALWAYS: u32 = 48 << 10;
        if bytes <= ALWAYS {
            return Ok(());
        }
        self.context.bind()?;
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST;
        // SAFETY: the function is loaded.
        unsafe { result::function::set_function_attribute(self.function, MOST, bytes as i32) }
            .map_err(failed(format_args!(
                "letting {launch} have {bytes} bytes of shared memory"
            )))
    }
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub blocks: u32,
    pub threads: u32,
    pub shared: u32,
    /// Whether it may start before the kernel in front of it has ended.
    pub early: bool,
}

/// See [`Context::stream`].
#[derive(Debug)]
pub(super) struct Stream {
    context: Arc<Context>,
    stream: sys::CUstream,
}

impl Stream {
    /// Queues a kernel. `args` is its one argument, a structure of words.
    ///
    /// # Safety
    /// The words are what the kernel expects, and what they point to lives until the stream is idle, or as long as a
    /// graph that captured this.
    pub unsafe fn launch(
        &self,
        kernel: &Kernel,
        grid: Grid,
        args: &[u64],
    ) -> Result<(), result::DriverError> {
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid.blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared,
            hStream: self.stream,
            attrs: &mut attribute,
            numAttrs: grid.early.into(),
        };
        let mut params = [args.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the caller's; the driver copies the argument.
        unsafe {
            let none = std::ptr::null_mut();
            sys::cuLaunchKernelEx(&config, kernel.function, params.as_mut_ptr(), none).result()
        }
    }

    /// Queues a copy to the GPU of the first bytes.
    ///
    /// # Safety
    /// Both live as long as [`Stream::launch`] says, and the host's side is not written before.
    pub unsafe fn upload(&self, from: &Pinned, to: &Memory) -> Result<(), Error> {
        assert!(from.bytes <= to.bytes, "a copy beyond its memory");
        // SAFETY: the caller's.
        unsafe {
            let bytes = std::slice::from_raw_parts(from.address, from.bytes);
            result::memcpy_htod_async(to.address, bytes, self.stream)
        }
        .map_err(failed("copying inputs to the GPU"))
    }

    /// Queues a copy of the first `bytes` from the GPU.
    ///
    /// # Safety
    /// Both live as long as [`Stream::launch`] says, and the host's side is neither read nor written before.
    pub unsafe fn download(&self, from: &Memory, to: *mut u8, bytes: usize) -> Result<(), Error> {
        assert!(bytes <= from.bytes, "a copy beyond its memory");
        // SAFETY: the caller's.
        unsafe {
            let to = std::slice::from_raw_parts_mut(to, bytes);
            result::memcpy_dtoh_async(to, from.address, self.stream)
        }
        .map_err(failed("copying outputs from the GPU"))
    }

    /// What `queue` queues, as a graph; none of it runs.
    pub fn capture(&self, queue: impl FnOnce() -> Result<(), Error>) -> Result<Graph, Error> {
        use sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as MODE;
        // SAFETY: the stream exists and is not capturing.
        unsafe { result::stream::begin_capture(self.stream, MODE) }
            .map_err(failed("recording a step"))?;
        let queued = queue();
        // SAFETY: ends what was begun, also where queueing failed.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        queued?;
        let graph = graph.map_err(failed("recording a step"))?;
        // SAFETY: the graph is whole; it is not needed once it is instantiated.
        let instance = unsafe {
            let instance = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            instance
        };
        Ok(Graph {
            context: Arc::clone(&self.context),
            graph: instance.map_err(failed("preparing a step"))?,
        })
    }

    /// Queues a graph.
    ///
    /// # Safety
    /// What it captured still lives.
    pub unsafe fn replay(&self, graph: &Graph) -> Result<(), Error> {
        // SAFETY: the caller's.
        unsafe { result::graph::launch(graph.graph, self.stream) }
            .map_err(failed("starting a step"))
    }

    /// Marks the point in time.
    pub fn record(&self, event: &Event) -> Result<(), Error> {
        // SAFETY: both exist.
        unsafe { result::event::record(event.event, self.stream) }.map_err(failed("timing"))
    }

    /// Waits until all that was queued is done: `what`.
    pub fn wait(&self, what: impl Display) -> Result<(), Error> {
        // SAFETY: the stream exists.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed(what))
    }
}

/// See [`Context::event`].
#[derive(Debug)]
pub(super) struct Event {
    context: Arc<Context>,
    event: sys::CUevent,
}

impl Event {
    /// Milliseconds since an earlier one; both have passed.
    pub fn since(&self, earlier: &Event) -> Result<f32, Error> {
        // SAFETY: both exist.
        unsafe { result::event::elapsed(earlier.event, self.event) }.map_err(failed("timing"))
    }
}

/// See [`Stream::capture`].
#[derive(Debug)]
pub(super) struct Graph {
    context: Arc<Context>,
    graph: sys::CUgraphExec,
}
