//! The driver's library: whether it is there and has all that is called. cudarc panics where it is not, or has not, so that this
//! is asked first. Knows names, not what they do.

use cudarc::driver::sys;

/// The driver's functions that are called here. One that an old driver lacks would be a panic in the midst of things.
const FUNCTIONS: &[&str] = &[
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime_v2",
    "cuEventRecord",
    "cuFuncSetAttribute",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuTensorMapEncodeTiled",
];

/// The oldest CUDA whose drivers have all of them.
const OLDEST: &str = "12.8";

/// Why the driver's library cannot be used, where it cannot.
pub(super) fn lacking() -> Option<String> {
    // SAFETY: loads the driver's library, as every CUDA program does.
    if !unsafe { sys::is_culib_present() } {
        let why =
            "the driver's library (libcuda.so) is not on the library path; install NVIDIA's driver";
        return Some(why.into());
    }
    // SAFETY: of a function only whether it is there is asked.
    let has = |name: &str| unsafe { sys::culib().get::<*const ()>(name.as_bytes()) }.is_ok();
    let name = FUNCTIONS.iter().find(|name| !has(name))?;
    let of = match has("cuDriverGetVersion") {
        true => {
            let (major, minor) = version();
            format!("for CUDA {major}.{minor} ")
        }
        false => String::new(),
    };
    Some(format!(
        "the driver {of}lacks {name}; satura needs one for CUDA {OLDEST} or newer: update NVIDIA's driver"
    ))
}

/// The newest CUDA that the driver speaks, e.g. 13.0.
pub(super) fn version() -> (i32, i32) {
    let mut version = 0;
    // SAFETY: points to an integer.
    let _ = unsafe { sys::cuDriverGetVersion(&mut version) };
    (version / 1000, version % 1000 / 10)
}
