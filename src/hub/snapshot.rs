//! The hub's cache folder, in the layout that Python's `huggingface_hub` shares: `blobs/<etag>` hold contents,
//! `snapshots/<commit>/<file>` link to them, `refs/<revision>` say which commit a branch or tag was. Knows files; not
//! where they come from.

use super::HubError;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A model's folder in the cache.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    cache: PathBuf,
    /// `models--org--name`.
    name: String,
}

impl Folder {
    /// Of the model `org/name`.
    pub fn new(cache: &Path, id: &str) -> Folder {
        Folder {
            cache: cache.into(),
            name: format!("models--{}", id.replace('/', "--")),
        }
    }

    /// The commit that `revision` was when it was last asked for: itself where it is one that is there.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if self.snapshot(revision).is_dir() && is_word(revision) {
            return Some(revision.into());
        }
        let commit = fs::read_to_string(self.path().join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        is_word(commit).then(|| commit.to_string())
    }

    /// Remembers which commit `revision` is.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.path().join("refs").join(revision);
        folder_of(&path)?;
        fs::write(&path, commit).map_err(|source| HubError::Write { path, source })
    }

    /// The directory of a commit, which is a model directory when it is complete.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.path().join("snapshots").join(commit)
    }

    /// Where a file of the content `etag` lies, or will.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.path().join("blobs").join(etag)
    }

    /// Waits until no other process fetches the content `etag`; none does until the lock is dropped.
    pub fn lock(&self, etag: &str) -> Result<File, HubError> {
        let folder = self.cache.join(".locks").join(&self.name);
        let path = folder.join(format!("{etag}.lock"));
        folder_of(&path)?;
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
        lock.map_err(|source| HubError::Write { path, source })
    }

    /// Makes the content `etag` a file of a commit.
    pub fn link(&self, etag: &str, commit: &str, file: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file);
        folder_of(&path)?;
        let up = "../".repeat(2 + file.matches('/').count());
        match link(&format!("{up}blobs/{etag}"), &self.blob(etag), &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(source) => Err(HubError::Write { path, source }),
            Ok(()) => Ok(()),
        }
    }

    fn path(&self) -> PathBuf {
        self.cache.join(&self.name)
    }
}

#[cfg(unix)]
fn link(relative: &str, _: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, path)
}

/// Links need rights that users of other systems seldom have; there the cache holds a file twice, as Python's does.
#[cfg(not(unix))]
fn link(_: &str, blob: &Path, path: &Path) -> io::Result<()> {
    fs::copy(blob, path).map(drop)
}

/// Makes the folder of a file.
pub(super) fn folder_of(path: &Path) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|source| HubError::Write {
        path: folder.into(),
        source,
    })
}

/// Whether a name that the hub gave is a plain file name.
pub(super) fn is_word(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
}
