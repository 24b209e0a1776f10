//! Tells the program which compiler it contains, so that a model compiled by another one is not taken from the cache.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::Path,
};

/// What determines the bytes of an artifact, besides the checkpoint and the options.
const SOURCES: &[&str] = &["ir/src", "compiler/src", "Cargo.lock"];

fn main() -> io::Result<()> {
    let mut hasher = DefaultHasher::new();
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
        // Absent where the package is built from a registry: there its version tells compilers apart.
        if Path::new(source).exists() {
            hash(Path::new(source), &mut hasher)?;
        }
    }
    println!("cargo:rustc-env=SATURA_BUILD={:016x}", hasher.finish());
    Ok(())
}

fn hash(path: &Path, hasher: &mut DefaultHasher) -> io::Result<()> {
    if path.is_file() {
        path.hash(hasher);
        fs::read(path)?.hash(hasher);
        return Ok(());
    }
    let entries: io::Result<Vec<_>> = fs::read_dir(path)?.map(|e| Ok(e?.path())).collect();
    let mut entries = entries?;
    entries.sort();
    entries.iter().try_for_each(|entry| hash(entry, hasher))
}
