//! Compiled models kept between runs, one file each, named by what determines their bytes. Knows files and ages; not
//! what is in them: whoever takes a file out checks it.
//!
//! Any number of processes may use one folder at once: files appear whole, and one that is deleted stays usable for
//! those that have it open. Nothing here is needed to run a model.

use crate::staged::{SUFFIX, Staged};
use compiler::{
    Options,
    checkpoint::{Checkpoint, CheckpointError},
};
use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// An artifact that nobody used for this long is deleted when another one is added.
const UNUSED: Duration = Duration::from_secs(30 * DAY);
/// A file that is still incomplete after this long belongs to a process that was killed.
const ABANDONED: Duration = Duration::from_secs(DAY);
const DAY: u64 = 24 * 60 * 60;
/// Beyond this the artifacts longest unused are deleted, though never the newest one.
const BYTES: u64 = 32 << 30;
const EXTENSION: &str = "satura";

/// A folder of compiled models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    folder: PathBuf,
}

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
            weights,
            activations,
            cache,
            nvrtc: _,
            without,
            costs,
        } = options;
        let costs = costs.as_ref().map(|table| table.digest());
        let rest = format!(
            "{} {} {target:?} {weights:?} {activations:?} {cache:?} {without:?} {costs:?}",
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
        Cache {
            folder: folder.into(),
        }
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
        &self.folder
    }

    /// Number of artifacts in it, and their bytes.
    pub fn size(&self) -> (usize, u64) {
        let entries = self.entries();
        let bytes = entries.iter().map(|e| e.bytes).sum();
        (entries.len(), bytes)
    }

    /// Where the artifact of this key is or would be.
    pub fn path(&self, key: Key) -> PathBuf {
        self.folder.join(format!("{}.{EXTENSION}", key.0.to_hex()))
    }

    /// The artifact of this key, if there is one; notes that it was used.
    pub(crate) fn find(&self, key: Key) -> Option<PathBuf> {
        let path = self.path(key);
        let used = path.metadata().ok()?.modified().ok()?;
        let now = SystemTime::now();
        if now
            .duration_since(used)
            .is_ok_and(|age| age.as_secs() > DAY)
        {
            // A cache that cannot be written to ages; that is all.
            let _ = File::open(&path).and_then(|file| file.set_modified(now));
        }
        Some(path)
    }

    /// A file that may become an artifact of this cache.
    pub(crate) fn stage(&self) -> io::Result<Staged> {
        fs::create_dir_all(&self.folder)?;
        Staged::new(&self.folder)
    }

    /// Adds what was staged, and deletes what is old.
    pub(crate) fn add(&self, staged: Staged, key: Key) -> io::Result<()> {
        let path = self.path(key);
        staged.commit(&path)?;
        self.prune(SystemTime::now(), BYTES);
        Ok(())
    }

    fn prune(&self, now: SystemTime, limit: u64) {
        let mut entries = self.entries();
        entries.sort_by_key(|e| std::cmp::Reverse(e.used));
        let mut kept = 0;
        for (i, entry) in entries.iter().enumerate() {
            kept += entry.bytes;
            let age = now.duration_since(entry.used).unwrap_or_default();
            if i > 0 && (age > UNUSED || kept > limit) {
                // Another process may have been faster.
                let _ = fs::remove_file(&entry.path);
            }
        }
        for entry in self.files(|name| name.ends_with(SUFFIX)) {
            if now.duration_since(entry.used).unwrap_or_default() > ABANDONED {
                let _ = fs::remove_file(&entry.path);
            }
        }
    }

    /// Its artifacts; none where the folder cannot be read.
    fn entries(&self) -> Vec<Entry> {
        // Files that are not ours are none of our business: the name is 64 hex digits.
        self.files(|name| {
            let digits = name
                .strip_suffix(EXTENSION)
                .and_then(|n| n.strip_suffix('.'));
            digits.is_some_and(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()))
        })
    }

    fn files(&self, wanted: impl Fn(&str) -> bool) -> Vec<Entry> {
        let Ok(files) = fs::read_dir(&self.folder) else {
            return vec![];
        };
        let entry = |file: fs::DirEntry| {
            file.file_name().to_str().filter(|name| wanted(name))?;
            let about = file.metadata().ok().filter(fs::Metadata::is_file)?;
            Some(Entry {
                path: file.path(),
                bytes: about.len(),
                used: about.modified().ok()?,
            })
        };
        files.flatten().filter_map(entry).collect()
    }
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
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

    #[test]
    fn old_and_superfluous_artifacts_go() {
        // (age in days, bytes), limit => which are left
        let check = |files: &[(u64, usize)], limit: u64, expected: &[usize]| {
            let folder = tempfile::tempdir().unwrap();
            let cache = Cache::new(folder.path());
            let now = SystemTime::now();
            let path = |i: usize| cache.path(Key(blake3::hash(&[i as u8])));
            for (i, (age, bytes)) in files.iter().enumerate() {
                fs::write(path(i), vec![0; *bytes]).unwrap();
                let file = File::options().append(true).open(path(i)).unwrap();
                file.set_modified(now - Duration::from_secs(age * DAY))
                    .unwrap();
            }
            let foreign = folder.path().join("notes.satura");
            fs::write(&foreign, "mine").unwrap();
            cache.prune(now, limit);
            let left: Vec<usize> = (0..files.len()).filter(|i| path(*i).exists()).collect();
            assert_eq!(left, expected, "{files:?}, at most {limit} bytes");
            assert!(foreign.exists());
        };
        check(&[(0, 5), (29, 5), (31, 5)], 100, &[0, 1]);
        check(&[(3, 5), (1, 5), (2, 5)], 10, &[1, 2]);
        check(&[(40, 500)], 10, &[0]);
    }
}
