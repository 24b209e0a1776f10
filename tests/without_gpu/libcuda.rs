//! A driver that pretends, built by the tests as `libcuda.so`: it has what is called of the real one, keeps memory on the host, and
//! fails as `FAKE_GPU` says. Its kernels compute nothing, and what is copied from it is zeros. Not a module of any crate.
//!
//! `FAKE_GPU` is a list of words: `init=CODE` fails to start, `devices=N` GPUs are seen, `driver=12040` is the version,
//! `capability=90` the GPU's, `memory=BYTES` it has, `pieces=1` of which none can be had, `load=CODE` refuses kernels, `launch=CODE`
//! fails to launch, and `fault=CODE` is what everything says from the first wait on after something was launched.

#![allow(
    nonstandard_style,
    unused_unsafe,
    unsafe_op_in_unsafe_fn,
    reason = "these are C's functions"
)]

use std::{
    collections::BTreeMap,
    env,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI32, Ordering::SeqCst},
    },
};

type Status = c_int;
const OUT_OF_MEMORY: Status = 2;
const NO_DEVICE: Status = 100;
const NOT_FOUND: Status = 500;

/// What `FAKE_GPU` says of a word.
fn told(word: &str) -> Option<u64> {
    let words = env::var("FAKE_GPU").unwrap_or_default();
    let value = words
        .split(' ')
        .find_map(|w| w.strip_prefix(word)?.strip_prefix('='))?;
    Some(value.parse().expect("a number in FAKE_GPU"))
}

fn code(word: &str) -> Status {
    told(word).unwrap_or(0) as Status
}

/// Whether something was launched that nobody waited for.
static LAUNCHED: AtomicBool = AtomicBool::new(false);
/// What every call says, once a kernel went astray.
static ASTRAY: AtomicI32 = AtomicI32::new(0);
/// What is allocated, by address.
static MEMORY: Mutex<BTreeMap<u64, Vec<u8>>> = Mutex::new(BTreeMap::new());

fn total() -> u64 {
    told("memory").unwrap_or(80_000_000_000)
}

fn free() -> u64 {
    let used: usize = MEMORY.lock().unwrap().values().map(Vec::len).sum();
    total() - used as u64
}

/// Calls that a kernel gone astray makes fail.
macro_rules! calls {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> Status {
                match ASTRAY.load(SeqCst) {
                    0 => unsafe { $body },
                    code => code,
                }
            }
        )*
    };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: Status, text: *mut *const c_char) -> Status {
    let said: &CStr = match error {
        NO_DEVICE => c"no CUDA-capable device is detected",
        OUT_OF_MEMORY => c"out of memory",
        700 => c"an illegal memory access was encountered",
        _ => c"so says the driver that pretends",
    };
    unsafe { *text = said.as_ptr() };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Status {
    unsafe { *version = told("driver").unwrap_or(13000) as c_int };
    0
}

#[cfg(not(old))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    ms: *mut f32,
    _from: *mut c_void,
    _to: *mut c_void,
) -> Status {
    unsafe { *ms = 1.0 };
    ASTRAY.load(SeqCst)
}

calls! {
    fn cuInit(_flags: c_uint) { code("init") }
    fn cuDeviceGetCount(count: *mut c_int) { *count = told("devices").unwrap_or(1) as c_int; 0 }
    fn cuDeviceGet(device: *mut c_int, _ordinal: c_int) { *device = 0; 0 }
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) {
        let capability = told("capability").unwrap_or(90) as c_int;
        *value = match attribute {
            75 => capability / 10,
            76 => capability % 10,
            _ => 4,
        };
        0
    }
    fn cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) {
        let text = c"Pretended GPU".to_bytes_with_nul();
        assert!(text.len() <= len as usize);
        name.copy_from(text.as_ptr().cast(), text.len());
        0
    }
    fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _device: c_int) { *context = 1 as _; 0 }
    fn cuDevicePrimaryCtxRelease_v2(_device: c_int) { 0 }
    fn cuCtxSetCurrent(_context: *mut c_void) { 0 }

    fn cuMemGetInfo_v2(left: *mut usize, all: *mut usize) {
        *left = free() as usize;
        *all = total() as usize;
        0
    }
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        if told("pieces").is_some() || bytes as u64 > free() {
            return OUT_OF_MEMORY;
        }
        let memory = vec![0u8; bytes];
        *address = memory.as_ptr() as u64;
        MEMORY.lock().unwrap().insert(*address, memory);
        0
    }
    fn cuMemFree_v2(address: u64) {
        MEMORY.lock().unwrap().remove(&address).expect("memory that was allocated");
        0
    }
    fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        // Aligned as pages are; given back with the process.
        *address = vec![[0u64; 512]; bytes.div_ceil(4096)].leak().as_mut_ptr().cast();
        0
    }
    fn cuMemFreeHost(_address: *mut c_void) { 0 }
    fn cuMemsetD8Async(address: u64, byte: u8, bytes: usize, _stream: *mut c_void) {
        (address as *mut u8).write_bytes(byte, bytes);
        0
    }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, _stream: *mut c_void) {
        (to as *mut u8).copy_from(from.cast(), bytes);
        0
    }
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, _from: u64, bytes: usize, _stream: *mut c_void) {
        to.cast::<u8>().write_bytes(0, bytes);
        0
    }

    fn cuModuleLoadData(module: *mut *mut c_void, _image: *const c_void) { *module = 1 as _; code("load") }
    fn cuModuleGetFunction(function: *mut *mut c_void, _module: *mut c_void, name: *const c_char) {
        *function = 1 as _;
        if CStr::from_ptr(name) == c"kernel" { 0 } else { NOT_FOUND }
    }
    fn cuModuleUnload(_module: *mut c_void) { 0 }
    fn cuFuncSetAttribute(_function: *mut c_void, _attribute: c_int, _value: c_int) { 0 }
    fn cuTensorMapEncodeTiled(
        map: *mut [u64; 16], _element: c_int, _rank: c_uint, _address: *mut c_void, _sizes: *const u64, _strides: *const u64,
        _tile: *const u32, _steps: *const u32, _interleave: c_int, _swizzle: c_int, _promotion: c_int, _fill: c_int
    ) { *map = [0; 16]; 0 }

    fn cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) { *stream = 1 as _; 0 }
    fn cuStreamDestroy_v2(_stream: *mut c_void) { 0 }
    fn cuStreamSynchronize(_stream: *mut c_void) {
        if LAUNCHED.swap(false, SeqCst) {
            ASTRAY.store(code("fault"), SeqCst);
        }
        ASTRAY.load(SeqCst)
    }
    fn cuStreamBeginCapture_v2(_stream: *mut c_void, _mode: c_int) { 0 }
    fn cuStreamEndCapture(_stream: *mut c_void, graph: *mut *mut c_void) { *graph = 1 as _; 0 }
    fn cuGraphInstantiateWithFlags(instance: *mut *mut c_void, _graph: *mut c_void, _flags: u64) { *instance = 1 as _; 0 }
    fn cuGraphDestroy(_graph: *mut c_void) { 0 }
    fn cuGraphExecDestroy(_graph: *mut c_void) { 0 }
    fn cuGraphLaunch(_graph: *mut c_void, _stream: *mut c_void) { LAUNCHED.store(true, SeqCst); 0 }
    fn cuLaunchKernelEx(_config: *const c_void, _function: *mut c_void, _params: *mut *mut c_void, _extra: *mut *mut c_void) {
        LAUNCHED.store(true, SeqCst);
        code("launch")
    }
    fn cuEventCreate(event: *mut *mut c_void, _flags: c_uint) { *event = 1 as _; 0 }
    fn cuEventDestroy_v2(_event: *mut c_void) { 0 }
    fn cuEventRecord(_event: *mut c_void, _stream: *mut c_void) { 0 }
}
