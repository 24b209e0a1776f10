//! Compiled models kept between runs, one file each, named by what determines their bytes. Does not know what is in them: whoever
//! takes a file out checks it. Nothing here is needed to run a model.

use crate::{shelf::Shelf, staged::Staged};
use compiler::{
    Options,
    checkpoint::{Checkpoint, CheckpointError},
};
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

/// Most bytes that are kept.
const BYTES: u64 = 32 << 30;

/// A folder of compiled models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache(Shelf);

/// What determines an artifact's bytes: the model's files, the compiler, the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(blake3::Hash);

impl Key {
    /// The key of `checkpoint` as its files were when it was opened, by [what the system says of
    /// them](Checkpoint::fingerprint); an embedded one by its content.
    ///
    /// # Errors
    /// As [`Checkpoint::fingerprint`].
    pub fn new(checkpoint: &Checkpoint, options: &Options) -> Result<Key, CheckpointError> {
        let mut all = blake3::Hasher::new_derive_key("satura cache key 1");
        all.update(&checkpoint.fingerprint()?);
        // Not with which NVRTC: what was compiled runs where there is none.
        let Options {
            target,
            precision,
            nvrtc: _,
            without,
            costs,
        } = options;
        let costs = costs.as_ref().map(|table| table.digest());
        let rest = format!(
            "{} {} {target:?} {precision:?} {without:?} {costs:?}",
            env!("CARGO_PKG_VERSION"),
            env!("SATURA_BUILD")
        );
        all.update(rest.as_bytes());
        Ok(Key(all.finalize()))
    }
}

impl Cache {
    /// The cache in `folder`, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache(Shelf::new(folder, "satura", BYTES))
    }

    /// The user's cache: `$SATURA_CACHE`, else `$XDG_CACHE_HOME/satura`, else `~/.cache/satura`. `None` where none of
    /// the three is known.
    pub fn of_user() -> Option<Cache> {
        Cache::chosen(|name| std::env::var_os(name))
    }

    fn chosen(variable: impl Fn(&str) -> Option<OsString>) -> Option<Cache> {
        let path = |name| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        // The XDG specification has relative paths ignored.
        let below = |name, rest| path(name).filter(|p| p.is_absolute()).map(|p| p.join(rest));
        path("SATURA_CACHE")
            .or_else(|| below("XDG_CACHE_HOME", "satura"))
            .or_else(|| below("HOME", ".cache/satura"))
            .map(Cache::new)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        self.0.folder()
    }

    /// Number of artifacts in it, and their bytes.
    pub fn size(&self) -> (usize, u64) {
        self.0.size()
    }

    /// Where the artifact of this key is or would be.
    pub fn path(&self, key: Key) -> PathBuf {
        self.0.path(&key.0.to_hex())
    }

    /// The artifact of this key, if there is one; notes that it was used.
    pub(crate) fn find(&self, key: Key) -> Option<PathBuf> {
        self.0.find(&key.0.to_hex())
    }

    /// A file that may become an artifact of this cache.
    pub(crate) fn stage(&self) -> io::Result<Staged> {
        self.0.stage()
    }

    /// Adds what was staged, and deletes what is old.
    pub(crate) fn add(&self, staged: Staged, key: Key) -> io::Result<()> {
        staged.commit(&self.path(key))?;
        self.0.prune();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_the_users() {
        let check = |variables: &[(&str, &str)], expected: Option<&str>| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| OsString::from(value))
            };
            let found = Cache::chosen(variable);
            assert_eq!(found, expected.map(Cache::new), "{variables:?}");
        };
        let home = ("HOME", "/home/me");
        check(&[], None);
        check(&[home], Some("/home/me/.cache/satura"));
        check(&[home, ("XDG_CACHE_HOME", "/c")], Some("/c/satura"));
        check(
            &[home, ("XDG_CACHE_HOME", "c")],
            Some("/home/me/.cache/satura"),
        );
        check(&[home, ("SATURA_CACHE", "here")], Some("here"));
        check(
            &[home, ("SATURA_CACHE", "")],
            Some("/home/me/.cache/satura"),
        );
    }
}
