//! The road to a GPU on a machine that has none: a driver and an NVRTC that pretend, and fail as they are told. What the command
//! and the library say then is under test; what kernels compute is not.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod kept;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

/// Where the libraries are: a folder for each driver, and NVRTC.
struct Fakes {
    driver: PathBuf,
    /// One that lacks what newer ones have.
    old_driver: PathBuf,
    nvrtc: PathBuf,
}

static FAKES: LazyLock<Fakes> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("without-gpu");
    let build = |source: &str, folder: &str, name: &str, more: &[&str]| {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        // Another run of the tests may have it open.
        let staged = tempfile::tempdir_in(&folder).unwrap();
        let library = staged.path().join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/without_gpu")
            .join(source);
        let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition", "2024", "--crate-type", "cdylib"]);
        rustc.args(["-D", "warnings", "-C", "panic=abort"]);
        let done = rustc
            .args(more)
            .arg("-o")
            .arg(&library)
            .arg(source)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        fs::rename(&library, folder.join(name)).unwrap();
        folder
    };
    let check = ["--check-cfg", "cfg(old)"];
    let old = [&check[..], &["--cfg", "old"]].concat();
    Fakes {
        driver: build("libcuda.rs", "driver", "libcuda.so", &check),
        old_driver: build("libcuda.rs", "old-driver", "libcuda.so", &old),
        nvrtc: build("libnvrtc.rs", "nvrtc", "libnvrtc.so.13", &[]),
    }
});

/// A run of the command, or of a part of these tests.
struct Run {
    command: Command,
    cache: tempfile::TempDir,
}

impl Run {
    /// Of a program, on a GPU that does as it is told.
    fn new(program: impl AsRef<std::ffi::OsStr>, gpu: &str) -> Run {
        let cache = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .env("SATURA_CACHE", cache.path())
            .env("LD_LIBRARY_PATH", &FAKES.driver)
            .env("SATURA_NVRTC", &FAKES.nvrtc)
            .env("FAKE_GPU", gpu)
            .env_remove("CUDA_VISIBLE_DEVICES");
        Run { command, cache }
    }

    /// Of the command.
    fn satura(gpu: &str, args: &[&str]) -> Run {
        let mut run = Run::new(env!("CARGO_BIN_EXE_satura"), gpu);
        run.command.args(args);
        run
    }

    fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    /// Whether it succeeded, and all that it said.
    fn end(mut self) -> (bool, String) {
        let done = self.command.output().unwrap();
        drop(self.cache);
        let said = [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap());
        let said = said.concat();
        assert!(!said.contains("panicked"), "{said}");
        (done.status.success(), said)
    }

    fn succeeds(self) -> String {
        let (done, said) = self.end();
        assert!(done, "{said}");
        said
    }

    /// An error that says all of the words.
    fn refused(self, words: &[&str]) -> String {
        let (done, said) = self.end();
        assert!(!done && said.contains("error: "), "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
        said
    }
}

fn fixture() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/llama_gqa")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A model compiled for a GPU.
fn compiled(folder: &Path, target: &str) -> PathBuf {
    let file = folder.join(format!("{target}.satura"));
    let args = ["compile", fixture(), "-o", text(&file), "--target", target];
    Run::satura("", &args).succeeds();
    file
}
