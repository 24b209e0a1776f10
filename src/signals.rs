//! Signals of the system that would end the program without a word: here they become errors like any other. Knows what
//! is being read by name only.

#[cfg(target_os = "linux")]
use std::sync::OnceLock;

/// What is being read, for the message.
#[cfg(target_os = "linux")]
static READING: OnceLock<String> = OnceLock::new();

/// Names the model whose files are mapped from now on; the first name counts.
pub fn reading(model: &str) {
    #[cfg(target_os = "linux")]
    let _ = READING.set(model.to_string());
    #[cfg(not(target_os = "linux"))]
    let _ = model;
}

/// From now on a write beyond the limit on file sizes (`ulimit -f`) fails as on a full disk, and a mapped file that is
/// cut short while it is read ends the program with a message and exit code 1.
pub fn install() {
    #[cfg(target_os = "linux")]
    // SAFETY: the handler calls nothing but what is allowed in one. On Linux no other handler of these signals is lost:
    // the standard library's for SIGBUS looks for overflows of the stack, which raise SIGSEGV.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(libc::SIGBUS, cut_short as *const () as libc::sighandler_t);
    }
}

#[cfg(target_os = "linux")]
extern "C" fn cut_short(_: libc::c_int) {
    let reading = READING.get().map_or("the model", String::as_str);
    let parts = [
        "error: ",
        reading,
        ": a file was cut short, or its disk failed, while it was being read; try again when it is whole\n",
    ];
    for part in parts {
        // SAFETY: the pointer and length are of a string that lives; `write` and `_exit` are allowed in a handler.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: as above.
    unsafe { libc::_exit(1) }
}
