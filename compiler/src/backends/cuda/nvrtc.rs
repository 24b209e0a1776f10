//! NVRTC, the CUDA compiler as a library: text to a cubin, without a GPU or a driver. Opened at run time, so that satura
//! builds and starts where it is missing. Does not know where it is looked for, nor what the text computes.

use super::{Cubins, Key};
use libloading::Library;
use std::{
    error::Error,
    ffi::{CStr, CString, c_char, c_int, c_void},
    fmt,
    path::Path,
    sync::Arc,
};

type Program = *mut c_void;
type Status = c_int;

/// The functions that are used, by their C names.
macro_rules! functions {
    ($($name:ident: $symbol:literal ($($arg:ty),*);)*) => {
        struct Functions {
            $($name: unsafe extern "C" fn($($arg),*) -> Status,)*
            error: unsafe extern "C" fn(Status) -> *const c_char,
            /// Held so that the functions stay where they are.
            _libraries: Vec<Library>,
        }

        impl Functions {
            /// # Safety
            /// The last library is NVRTC 12 or newer, whose functions have these types.
            unsafe fn of(libraries: Vec<Library>) -> Result<Functions, libloading::Error> {
                let Some(nvrtc) = libraries.last() else {
                    return Err(libloading::Error::DlOpenUnknown);
                };
                // SAFETY: the caller's.
                unsafe {
                    Ok(Functions {
                        $($name: *nvrtc.get(concat!($symbol, "\0").as_bytes())?,)*
                        error: *nvrtc.get(b"nvrtcGetErrorString\0")?,
                        _libraries: libraries,
                    })
                }
            }
        }
    };
}

functions! {
    version: "nvrtcVersion" (*mut c_int, *mut c_int);
    create: "nvrtcCreateProgram" (*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
    destroy: "nvrtcDestroyProgram" (*mut Program);
    compile: "nvrtcCompileProgram" (Program, c_int, *const *const c_char);
    log_size: "nvrtcGetProgramLogSize" (Program, *mut usize);
    log: "nvrtcGetProgramLog" (Program, *mut c_char);
    cubin_size: "nvrtcGetCUBINSize" (Program, *mut usize);
    cubin: "nvrtcGetCUBIN" (Program, *mut c_char);
}

/// An open NVRTC.
#[derive(Clone)]
pub struct Nvrtc {
    functions: Arc<Functions>,
    version: (u32, u32),
    kept: Option<Arc<dyn Cubins>>,
}

/// Why NVRTC cannot be used, or refuses a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NvrtcError {
    /// The library cannot be opened.
    #[error("{library}: {why}")]
    Open {
        /// The path or name.
        library: String,
        /// The system's reason.
        why: String,
    },
    /// A call failed.
    #[error("NVRTC {call}: {why}")]
    Call {
        /// What was asked of it.
        call: &'static str,
        /// Its reason.
        why: String,
    },
    /// The text does not compile.
    #[error("NVRTC refuses the text for {arch}:\n{log}")]
    Text {
        /// The architecture.
        arch: String,
        /// What it says.
        log: String,
    },
}

/// A kernel in machine code, and what the assembler says of it: registers, spills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cubin {
    /// An ELF file.
    pub bytes: Vec<u8>,
    /// `ptxas -v`.
    pub log: String,
}

impl Nvrtc {
    /// Opens the library at a path, or of a name that the system's loader finds. `builtins` is the library that NVRTC
    /// itself opens by name; one that lies elsewhere has to be open before.
    ///
    /// # Errors
    /// [`NvrtcError::Open`].
    pub fn open(nvrtc: &Path, builtins: Option<&Path>) -> Result<Nvrtc, NvrtcError> {
        // The system's own words lie beneath the error.
        let failed = |path: &Path, e: &dyn Error| NvrtcError::Open {
            library: path.display().to_string(),
            why: e
                .source()
                .map_or_else(|| e.to_string(), ToString::to_string),
        };
        let mut libraries = vec![];
        for path in builtins.into_iter().chain([nvrtc]) {
            // SAFETY: the library is NVIDIA's, as far as its name and its functions can tell; its initialisers do
            // nothing that concerns this process.
            libraries.push(unsafe { Library::new(path) }.map_err(|e| failed(path, &e))?);
        }
        // SAFETY: NVRTC's functions have had these types since CUDA 11.1.
        let functions = unsafe { Functions::of(libraries) }.map_err(|e| failed(nvrtc, &e))?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both point to integers.
        let status = unsafe { (functions.version)(&mut major, &mut minor) };
        functions.check("version", status)?;
        Ok(Nvrtc {
            functions: Arc::new(functions),
            version: (major.unsigned_abs(), minor.unsigned_abs()),
            kept: None,
        })
    }

    /// The same, which compiles nothing again that is among `cubins`.
    #[must_use]
    pub fn keeping(self, cubins: Arc<dyn Cubins>) -> Nvrtc {
        Nvrtc {
            kept: Some(cubins),
            ..self
        }
    }

    /// Major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// A text's machine code for an architecture, e.g. `sm_90a`: kept since an earlier time, or compiled now.
    ///
    /// # Errors
    /// As [`Nvrtc::compile`].
    pub fn cubin(&self, text: &str, arch: &str) -> Result<Vec<u8>, NvrtcError> {
        let Some(kept) = &self.kept else {
            return Ok(self.compile(text, arch)?.bytes);
        };
        let key = Key::new(text, self.version, &self.options(arch));
        if let Some(cubin) = kept.find(key) {
            return Ok(cubin);
        }
        let cubin = self.compile(text, arch)?.bytes;
        kept.keep(key, &cubin);
        Ok(cubin)
    }

    fn options(&self, arch: &str) -> Vec<String> {
        let mut options = vec![
            format!("--gpu-architecture={arch}"),
            "--std=c++17".into(),
            "--ptxas-options=-v".into(),
        ];
        if self.version >= (13, 0) {
            // What comes from its cache says nothing of registers.
            options.push("--no-cache".into());
        }
        options
    }

    /// Compiles a text for an architecture, whatever is kept.
    ///
    /// # Errors
    /// [`NvrtcError::Text`] with what the compiler says.
    pub fn compile(&self, text: &str, arch: &str) -> Result<Cubin, NvrtcError> {
        let f = &*self.functions;
        let text = CString::new(text).map_err(|e| NvrtcError::Call {
            call: "program",
            why: e.to_string(),
        })?;
        let options = self
            .options(arch)
            .into_iter()
            .map(|o| CString::new(o).unwrap_or_default());
        let texts: Vec<CString> = options.collect();
        let options: Vec<*const c_char> = texts.iter().map(|o| o.as_ptr()).collect();
        let mut program = Owned(f, std::ptr::null_mut());
        // SAFETY: texts end in zero; there are no headers.
        let status = unsafe {
            let none = std::ptr::null::<*const c_char>();
            (f.create)(
                &mut program.1,
                text.as_ptr(),
                std::ptr::null(),
                0,
                none,
                none,
            )
        };
        f.check("program", status)?;
        // SAFETY: the program exists; the options outlive the call.
        let compiled = unsafe { (f.compile)(program.1, options.len() as c_int, options.as_ptr()) };
        let log = program.bytes("log", f.log_size, f.log)?;
        let log = String::from_utf8_lossy(&log)
            .trim_end_matches('\0')
            .trim()
            .to_string();
        if compiled != 0 {
            return Err(NvrtcError::Text {
                arch: arch.into(),
                log,
            });
        }
        let bytes = program.bytes("cubin", f.cubin_size, f.cubin)?;
        Ok(Cubin { bytes, log })
    }
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVRTC {}.{}", self.version.0, self.version.1)
    }
}

impl Functions {
    fn check(&self, call: &'static str, status: Status) -> Result<(), NvrtcError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: gives a static text for any number.
        let why = unsafe { CStr::from_ptr((self.error)(status)) };
        let why = why.to_string_lossy().into_owned();
        Err(NvrtcError::Call { call, why })
    }
}

/// A program that is destroyed when dropped.
struct Owned<'a>(&'a Functions, Program);

impl Owned<'_> {
    /// What a pair of functions gives: its size, then its bytes.
    fn bytes(
        &self,
        call: &'static str,
        size: unsafe extern "C" fn(Program, *mut usize) -> Status,
        get: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    ) -> Result<Vec<u8>, NvrtcError> {
        let mut len = 0;
        // SAFETY: the program exists, and the second function writes as many bytes as the first says.
        unsafe {
            self.0.check(call, size(self.1, &mut len))?;
            let mut bytes = vec![0u8; len];
            self.0.check(call, get(self.1, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        if !self.1.is_null() {
            // SAFETY: the program is ours and not used again.
            unsafe { (self.0.destroy)(&mut self.1) };
        }
    }
}
