//! A kernel that reads memory and does nothing else: the ceiling that steps on a GPU are held against. Knows no devices.

/// Threads of a block.
pub const THREADS: u32 = 512;
/// Loads of 16 bytes that a thread has on their way.
const LOADS: u32 = 8;
/// Bytes that a block reads at once.
pub const TURN: u64 = 16 * (THREADS * LOADS) as u64;

/// Its text, for NVRTC. It takes the addresses and numbers that `kernels/read.cu` says.
pub fn text() -> String {
    let sizes = format!("constexpr int THREADS = {THREADS};\nconstexpr int LOADS = {LOADS};\n");
    let parts = [
        include_str!("kernels/prelude.cu"),
        include_str!("kernels/terms.cu"),
        include_str!("kernels/codecs.cu"),
        &sizes,
        include_str!("kernels/read.cu"),
    ];
    parts.join("\n")
}
