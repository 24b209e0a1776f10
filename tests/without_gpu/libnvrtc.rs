//! An NVRTC that pretends, built by the tests as `libnvrtc.so.13`: what it gives for a text is a cubin of that text's digest. Not a
//! module of any crate.
//!
//! `FAKE_NVRTC` names a text's word that it refuses; every text that it compiles is a line in the file `FAKE_NVRTC_LOG`.

#![allow(nonstandard_style, reason = "these are C's functions")]

use std::{
    collections::hash_map::DefaultHasher,
    env,
    ffi::{CStr, c_char, c_int, c_void},
    fs::OpenOptions,
    hash::{Hash, Hasher},
    io::Write,
};

type Status = c_int;
const COMPILATION: Status = 6;

pub struct Program {
    text: String,
    log: Vec<u8>,
    cubin: Vec<u8>,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> Status {
    unsafe { (*major, *minor) = (13, 0) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn nvrtcGetErrorString(_status: Status) -> *const c_char {
    c"so says the NVRTC that pretends".as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut *mut Program,
    text: *const c_char,
    _name: *const c_char,
    _headers: c_int,
    _texts: *const *const c_char,
    _names: *const *const c_char,
) -> Status {
    let text = unsafe { CStr::from_ptr(text) }
        .to_str()
        .unwrap()
        .to_string();
    let made = Program {
        text,
        log: vec![0],
        cubin: vec![],
    };
    unsafe { *program = Box::into_raw(Box::new(made)) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcDestroyProgram(program: *mut *mut Program) -> Status {
    drop(unsafe { Box::from_raw(*program) });
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCompileProgram(
    program: *mut Program,
    count: c_int,
    options: *const *const c_char,
) -> Status {
    let program = unsafe { &mut *program };
    let refused = env::var("FAKE_NVRTC").unwrap_or_default();
    let line = program
        .text
        .lines()
        .position(|line| line.contains(&refused));
    if let (false, Some(line)) = (refused.is_empty(), line) {
        let at = line + 1;
        let log = format!("kernel.cu({at}): error: {refused} is not wanted here\0");
        program.log = log.into_bytes();
        return COMPILATION;
    }
    let mut hasher = DefaultHasher::new();
    program.text.hash(&mut hasher);
    for i in 0..count as usize {
        unsafe { CStr::from_ptr(*options.add(i)) }.hash(&mut hasher);
    }
    let digest = format!("{:016x}\n", hasher.finish());
    program.cubin = format!("\x7fELF pretended {digest}").into_bytes();
    if let Some(path) = env::var_os("FAKE_NVRTC_LOG") {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(digest.as_bytes()).unwrap();
    }
    0
}

/// A pair of functions that give bytes: how many, and then they.
macro_rules! bytes {
    ($($size:ident, $get:ident: $field:ident;)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $size(program: *const Program, size: *mut usize) -> Status {
                unsafe { *size = (*program).$field.len() };
                0
            }

            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $get(program: *const Program, to: *mut c_void) -> Status {
                let bytes = unsafe { &(*program).$field };
                unsafe { to.cast::<u8>().copy_from(bytes.as_ptr(), bytes.len()) };
                0
            }
        )*
    };
}
bytes! {
    nvrtcGetProgramLogSize, nvrtcGetProgramLog: log;
    nvrtcGetCUBINSize, nvrtcGetCUBIN: cubin;
}
