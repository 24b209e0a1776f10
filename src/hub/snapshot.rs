//! The hub's cache folder as `hf-hub` and Python's `huggingface_hub` have it: `blobs/<etag>` hold contents,
//! `snapshots/<commit>/<file>` link to them, `refs/<revision>` say which commit a branch or tag was. Knows files; not
//! where they come from.

use super::HubError;
use compiler::checkpoint::Config;
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A model's folder in the cache, at some revision.
#[derive(Debug)]
pub(super) struct Folder {
    cache: PathBuf,
    repo: Repo,
    entry: CacheRepo,
}

impl Folder {
    /// Of the model `org/name`.
    pub fn new(cache: &Path, id: &str, revision: &str) -> Folder {
        let repo = Repo::with_revision(id.into(), RepoType::Model, revision.into());
        Folder {
            cache: cache.into(),
            entry: Cache::new(cache.into()).repo(repo.clone()),
            repo,
        }
    }

    /// The directory of the commit that the revision was when it was last asked for: of itself where it is one that is there.
    pub fn last(&self) -> Option<PathBuf> {
        let revision = self.repo.revision();
        let itself = self.snapshot(revision);
        if is_word(revision) && itself.is_dir() {
            return Some(itself);
        }
        let config = self.entry.get(Config::FILE)?;
        config.parent().map(PathBuf::from)
    }

    /// Remembers which commit the revision is.
    pub fn remember(&self, commit: &str) -> Result<(), HubError> {
        if self.repo.revision() == commit {
            return Ok(());
        }
        let written = self.entry.create_ref(commit);
        written.map_err(|source| HubError::Write {
            path: self.path().join("refs").join(self.repo.revision()),
            source,
        })
    }

    /// The directory of a commit, which is a model directory when it is complete.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.entry.pointer_path(commit)
    }

    /// Where a file of the content `etag` lies, or will.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.path().join("blobs").join(etag)
    }

    /// Waits until no other process fetches the content `etag`; none does until the lock is dropped.
    pub fn lock(&self, etag: &str) -> Result<File, HubError> {
        let folder = self.cache.join(".locks").join(self.repo.folder_name());
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
        self.cache.join(self.repo.folder_name())
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
