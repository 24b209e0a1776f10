//! Where NVRTC is on this machine: a variable, the system's libraries, Python's packages. Knows names of files; opening
//! the library is the compiler's.

use crate::{Cache, cubins::Cubins};
use compiler::backends::cuda::Nvrtc;
use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

/// Names a library or its folder, and is looked at first.
pub const VARIABLE: &str = "SATURA_NVRTC";

/// Names of the library, best first. Cubins of version 13.0 run with every driver for CUDA 13 and newer.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// Where Python packages keep it, below a folder of packages.
const PACKAGES: [&str; 2] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];

/// There is no NVRTC, or none that opens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "compiling for GPUs needs NVRTC, which was not found; tried: {}; \
     install it (`pip install nvidia-cuda-nvrtc==13.0.*`) or set {VARIABLE} to libnvrtc.so.13 or its folder",
    tried.join("; ")
)]
pub struct NoNvrtc {
    /// Each place, and why it was not that.
    pub tried: Vec<String>,
}

/// Opens NVRTC: the one that `SATURA_NVRTC` names, or the first of the system's and Python's. With a cache it compiles no kernel
/// again that is kept there.
///
/// # Errors
/// Every place looked at.
pub fn find(cache: Option<&Cache>) -> Result<Nvrtc, NoNvrtc> {
    let found = open()?;
    Ok(match cache {
        Some(cache) => found.keeping(Cubins::of(cache)),
        None => found,
    })
}

fn open() -> Result<Nvrtc, NoNvrtc> {
    let mut tried = vec![];
    if let Some(place) = env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        let place = Path::new(&place);
        let files = match place.is_dir() {
            true => in_folder(place),
            false => vec![place.into()],
        };
        if files.is_empty() {
            tried.push(format!("{VARIABLE}={}: no libnvrtc in it", place.display()));
        }
        // Who names one wants no other.
        return first(&files, &mut tried).ok_or(NoNvrtc { tried });
    }
    let names: Vec<PathBuf> = NAMES.iter().map(PathBuf::from).collect();
    if let Some(found) = first(&names, &mut tried) {
        return Ok(found);
    }
    let folders = python_packages();
    if folders.is_empty() {
        tried.push("python3: does not say where its packages are".into());
    }
    for folder in folders {
        let files: Vec<PathBuf> = PACKAGES
            .iter()
            .flat_map(|package| in_folder(&folder.join(package)))
            .collect();
        if files.is_empty() {
            tried.push(format!("{}: no nvidia-cuda-nvrtc", folder.display()));
        }
        if let Some(found) = first(&files, &mut tried) {
            return Ok(found);
        }
    }
    Err(NoNvrtc { tried })
}

fn first(files: &[PathBuf], tried: &mut Vec<String>) -> Option<Nvrtc> {
    for file in files {
        let builtins = file.parent().and_then(builtins);
        match Nvrtc::open(file, builtins.as_deref()) {
            Ok(found) => return Some(found),
            Err(error) => tried.push(error.to_string()),
        }
    }
    None
}

/// The libraries of that name in a folder, best first.
fn in_folder(folder: &Path) -> Vec<PathBuf> {
    let files = NAMES.iter().map(|name| folder.join(name));
    files.filter(|file| file.is_file()).collect()
}

/// The library beside NVRTC that it opens by name.
fn builtins(folder: &Path) -> Option<PathBuf> {
    let files = folder.read_dir().ok()?.flatten().map(|entry| entry.path());
    let named = |file: &PathBuf| {
        let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.starts_with("libnvrtc-builtins.so")
    };
    files.filter(named).min()
}

/// Folders in which `python3` looks for packages.
fn python_packages() -> Vec<PathBuf> {
    let output = Command::new("python3")
        .args(["-c", "import sys; print('\\n'.join(sys.path))"])
        .output();
    let text = output.map(|o| o.stdout).unwrap_or_default();
    let lines = String::from_utf8_lossy(&text).into_owned();
    let folders = lines.lines().map(PathBuf::from);
    folders
        .filter(|f| f.ends_with("site-packages") || f.ends_with("dist-packages"))
        .collect()
}
