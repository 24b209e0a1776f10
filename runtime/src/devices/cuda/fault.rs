//! What the driver says against a call, in words: what was being done, its reason, what to do about it. And that a GPU on
//! which a kernel went astray does nothing more for this process. Knows numbers of errors; makes no calls.

use crate::Error;
use cudarc::driver::{
    result::DriverError,
    sys::CUresult::{self, *},
};
use std::{fmt::Display, sync::OnceLock};

/// The failure after which the driver refuses all that the process asks: what was being done, and the driver's reason.
static LOST: OnceLock<(String, String)> = OnceLock::new();

/// Errors that are said of a kernel, by whichever call notices first, and again by every call from then on. NVIDIA's manual of
/// each: "to continue using CUDA, the process must be terminated and relaunched".
const FINAL: &[CUresult] = &[
    CUDA_ERROR_ECC_UNCORRECTABLE,
    CUDA_ERROR_NVLINK_UNCORRECTABLE,
    CUDA_ERROR_CONTAINED,
    CUDA_ERROR_ILLEGAL_ADDRESS,
    CUDA_ERROR_LAUNCH_TIMEOUT,
    CUDA_ERROR_CONTEXT_IS_DESTROYED,
    CUDA_ERROR_ASSERT,
    CUDA_ERROR_HARDWARE_STACK_ERROR,
    CUDA_ERROR_ILLEGAL_INSTRUCTION,
    CUDA_ERROR_MISALIGNED_ADDRESS,
    CUDA_ERROR_INVALID_ADDRESS_SPACE,
    CUDA_ERROR_INVALID_PC,
    CUDA_ERROR_LAUNCH_FAILED,
    CUDA_ERROR_TENSOR_MEMORY_LEAK,
    CUDA_ERROR_EXTERNAL_DEVICE,
];

/// What to do about an error whose text does not tell.
fn remedy(code: CUresult) -> Option<&'static str> {
    Some(match code {
        CUDA_ERROR_NO_DEVICE => {
            "the driver sees no GPU: look at CUDA_VISIBLE_DEVICES and at what `nvidia-smi` says"
        }
        CUDA_ERROR_STUB_LIBRARY => {
            "the libcuda.so that was found is the toolkit's stub: put the driver's own in front of it on LD_LIBRARY_PATH"
        }
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "libcuda.so and the kernel's module are of different drivers: restart the machine after an update"
        }
        CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "the libcuda.so that was found is of a compatibility package that is not for this GPU: take it off LD_LIBRARY_PATH"
        }
        CUDA_ERROR_SYSTEM_NOT_READY => {
            "what the GPU needs is not running yet, e.g. nvidia-fabricmanager"
        }
        CUDA_ERROR_DEVICE_UNAVAILABLE => {
            "another process has the GPU for itself: end that, or see `nvidia-smi --query-gpu=compute_mode`"
        }
        CUDA_ERROR_OUT_OF_MEMORY => "end what else uses that memory",
        CUDA_ERROR_INVALID_IMAGE
        | CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "a driver older than what compiled the code does not take it: update NVIDIA's driver, or compile the model again \
             with NVRTC as old as the driver (SATURA_NVRTC names one)"
        }
        CUDA_ERROR_OPERATING_SYSTEM | CUDA_ERROR_UNKNOWN => {
            "the kernel's module may be at fault: see `nvidia-smi` and `dmesg`"
        }
        _ => return None,
    })
}

/// The driver refuses everything, or what fails now for the first time.
pub(super) fn lost() -> Result<(), Error> {
    match LOST.get() {
        None => Ok(()),
        Some((what, why)) => Err(Error::GpuLost {
            what: what.clone(),
            why: why.clone(),
        }),
    }
}

/// What failed, in the driver's words. Costs nothing where nothing fails.
pub(super) fn failed(what: impl Display) -> impl FnOnce(DriverError) -> Error {
    move |error| {
        let text = error.error_string().map(|s| s.to_string_lossy());
        let why = format!("{} ({:?})", text.unwrap_or_default(), error.0);
        if FINAL.contains(&error.0) {
            LOST.get_or_init(|| (what.to_string(), why.clone()));
        }
        if let Err(lost) = lost() {
            return lost;
        }
        Error::Gpu {
            what: what.to_string(),
            why: match remedy(error.0) {
                Some(remedy) => format!("{why}; {remedy}"),
                None => why,
            },
        }
    }
}
