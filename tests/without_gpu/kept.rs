//! Machine code that is kept between compilations: what is compiled again, and what is not. Counts what NVRTC does.

use super::{Run, fixture, text};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A cache, and what NVRTC compiled.
struct Kept {
    folder: tempfile::TempDir,
}

impl Kept {
    fn new() -> Kept {
        Kept {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// What compiles the fixture to `m.satura` in a folder, and writes down there what NVRTC does.
    fn compilation(&self, folder: &Path, target: &str, more: &[&str]) -> Run {
        let out = folder.join("m.satura");
        let args = ["compile", fixture(), "-o", text(&out), "--target", target];
        Run::satura("", &[&args, more].concat())
            .env("SATURA_CACHE", self.cache())
            .env("FAKE_NVRTC_LOG", folder.join("log"))
    }

    /// Compiles the fixture; gives the artifact, and the texts that NVRTC compiled for it.
    fn compile_for(&self, target: &str, more: &[&str]) -> (Vec<u8>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("log"), "").unwrap();
        self.compilation(folder.path(), target, more).succeeds();
        let texts = fs::read_to_string(folder.path().join("log")).unwrap();
        // Threads take turns as they will.
        let mut texts: Vec<String> = texts.lines().map(String::from).collect();
        texts.sort();
        (fs::read(folder.path().join("m.satura")).unwrap(), texts)
    }

    fn compile(&self) -> (Vec<u8>, Vec<String>) {
        self.compile_for("sm_90a", &[])
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.cache().join("cubins")).unwrap();
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    }
}

#[test]
fn equal_kernels_are_compiled_once() {
    let (kept, q8) = (Kept::new(), ["--weights", "q8"]);
    let (artifact, texts) = kept.compile();
    assert!(texts.len() > 5, "{texts:?}");
    assert_eq!(kept.files().len(), texts.len());
    // The same bytes, and nothing compiled.
    assert_eq!(kept.compile(), (artifact.clone(), vec![]));
    // Of another option what differs: the kernels that read no weights are as they were.
    let (_, more) = kept.compile_for("sm_90a", &q8);
    assert!(!more.is_empty() && more.len() < texts.len(), "{more:?}");
    assert!(more.iter().all(|text| !texts.contains(text)), "{more:?}");
    assert_eq!(kept.compile_for("sm_90a", &q8).1, Vec::<String>::new());
    // For another architecture all.
    let (_, other) = kept.compile_for("sm_80", &[]);
    assert_eq!(other, Kept::new().compile_for("sm_80", &[]).1);
    assert_eq!(kept.compile(), (artifact, vec![]));
}

#[test]
fn damaged_files_are_compiled_again() {
    let kept = Kept::new();
    let (artifact, texts) = kept.compile();
    let files = kept.files();
    let sound: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let (mut flipped, mut longer) = (sound[1].clone(), sound[2].clone());
    *flipped.last_mut().unwrap() ^= 1;
    longer.push(0);
    // Cut short, changed, too long, empty, another kernel's.
    let damaged = [&sound[0][..40], &flipped, &longer, &[], &sound[0]];
    for (file, bytes) in files.iter().zip(damaged) {
        fs::write(file, bytes).unwrap();
    }
    let (again, compiled) = kept.compile();
    assert_eq!((again, compiled.len()), (artifact.clone(), damaged.len()));
    assert!(compiled.iter().all(|text| texts.contains(text)));
    let mended = files.iter().map(|file| fs::read(file).unwrap());
    assert!(mended.eq(sound));
    // Where nothing can be kept, everything is compiled.
    fs::remove_dir_all(kept.cache().join("cubins")).unwrap();
    fs::write(kept.cache().join("cubins"), "").unwrap();
    let (again, compiled) = kept.compile();
    assert_eq!((again, compiled.len()), (artifact, texts.len()));
}

#[test]
fn processes_at_once_make_the_same() {
    let kept = Kept::new();
    let (artifact, texts) = Kept::new().compile();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let own = tempfile::tempdir().unwrap();
                kept.compilation(own.path(), "sm_90a", &[]).succeeds();
                assert!(fs::read(own.path().join("m.satura")).unwrap() == artifact);
            });
        }
    });
    assert_eq!(kept.files().len(), texts.len());
    assert_eq!(kept.compile(), (artifact, vec![]));
}
