//! A folder of files that can be made again: found by what determines their bytes, deleted when nobody used them for long. Knows
//! files and ages; not what is in them.
//!
//! Any number of processes may use one folder at once: files appear whole, and one that is deleted stays usable for those that
//! have it open.

use crate::staged::{SUFFIX, Staged};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

const DAY: u64 = 24 * 60 * 60;
/// A file that nobody used for this long is deleted.
const UNUSED: Duration = Duration::from_secs(30 * DAY);
/// A file that is still incomplete after this long belongs to a process that was killed.
const ABANDONED: Duration = Duration::from_secs(DAY);
/// Digits of a name.
const DIGITS: usize = 64;

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shelf {
    folder: PathBuf,
    /// Of its files, whose names are a hash.
    extension: &'static str,
    /// Beyond so many bytes the files longest unused are deleted, though never the newest one.
    most: u64,
}

impl Shelf {
    /// The folder need not exist yet.
    pub fn new(folder: impl Into<PathBuf>, extension: &'static str, most: u64) -> Shelf {
        Shelf {
            folder: folder.into(),
            extension,
            most,
        }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Number of files in it, and their bytes.
    pub fn size(&self) -> (usize, u64) {
        let entries = self.entries();
        let bytes = entries.iter().map(|e| e.bytes).sum();
        (entries.len(), bytes)
    }

    /// Where the file of a hash is or would be; the hash in hexadecimal.
    pub fn path(&self, hash: &str) -> PathBuf {
        self.folder.join(format!("{hash}.{}", self.extension))
    }

    /// The file of a hash, if there is one; notes that it was used.
    pub fn find(&self, hash: &str) -> Option<PathBuf> {
        let path = self.path(hash);
        let used = path.metadata().ok()?.modified().ok()?;
        let now = SystemTime::now();
        if now
            .duration_since(used)
            .is_ok_and(|age| age.as_secs() > DAY)
        {
            // A folder that cannot be written to ages; that is all.
            let _ = File::open(&path).and_then(|file| file.set_modified(now));
        }
        Some(path)
    }

    /// A file that may be added.
    pub fn stage(&self) -> io::Result<Staged> {
        fs::create_dir_all(&self.folder)?;
        Staged::new(&self.folder)
    }

    /// Deletes what is old.
    pub fn prune(&self) {
        self.prune_at(SystemTime::now());
    }

    fn prune_at(&self, now: SystemTime) {
        let mut entries = self.entries();
        entries.sort_by_key(|e| std::cmp::Reverse(e.used));
        let mut kept = 0;
        for (i, entry) in entries.iter().enumerate() {
            kept += entry.bytes;
            let age = now.duration_since(entry.used).unwrap_or_default();
            if i > 0 && (age > UNUSED || kept > self.most) {
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

    /// Its files; none where the folder cannot be read. Others are none of our business.
    fn entries(&self) -> Vec<Entry> {
        self.files(|name| {
            let hash = name
                .strip_suffix(self.extension)
                .and_then(|n| n.strip_suffix('.'));
            hash.is_some_and(|h| h.len() == DIGITS && h.bytes().all(|b| b.is_ascii_hexdigit()))
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
    fn old_and_superfluous_files_go() {
        // (age in days, bytes), limit => which are left
        let check = |files: &[(u64, usize)], most: u64, expected: &[usize]| {
            let folder = tempfile::tempdir().unwrap();
            let shelf = Shelf::new(folder.path(), "satura", most);
            let now = SystemTime::now();
            let path = |i: usize| shelf.path(&blake3::hash(&[i as u8]).to_hex());
            for (i, (age, bytes)) in files.iter().enumerate() {
                fs::write(path(i), vec![0; *bytes]).unwrap();
                let file = File::options().append(true).open(path(i)).unwrap();
                file.set_modified(now - Duration::from_secs(age * DAY))
                    .unwrap();
            }
            let foreign = folder.path().join("notes.satura");
            fs::write(&foreign, "mine").unwrap();
            shelf.prune_at(now);
            let left: Vec<usize> = (0..files.len()).filter(|i| path(*i).exists()).collect();
            assert_eq!(left, expected, "{files:?}, at most {most} bytes");
            assert!(foreign.exists());
        };
        check(&[(0, 5), (29, 5), (31, 5)], 100, &[0, 1]);
        check(&[(3, 5), (1, 5), (2, 5)], 10, &[1, 2]);
        check(&[(40, 500)], 10, &[0]);
    }
}
