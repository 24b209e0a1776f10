//! Where a checkpoint's files come from: a directory, or memory. Refuses to reach outside of the directory; does not
//! know what the files hold.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::CheckpointError;
use super::mmap::Bytes;
use super::stamp::Stamp;

/// A set of named files.
#[derive(Debug)]
pub(super) enum Source {
    Directory(PathBuf),
    Memory(BTreeMap<String, Cow<'static, [u8]>>),
}

impl Source {
    /// Name of the whole, for messages.
    pub(super) fn root(&self) -> &Path {
        match self {
            Self::Directory(dir) => dir,
            Self::Memory(_) => Path::new("(embedded)"),
        }
    }

    /// Name of one file, for messages.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Names of all files, sorted.
    pub(super) fn list(&self) -> Result<Vec<String>, CheckpointError> {
        match self {
            Self::Memory(files) => Ok(files.keys().cloned().collect()),
            Self::Directory(dir) => {
                let mut names = Vec::new();
                for entry in fs::read_dir(dir).map_err(|e| CheckpointError::io(dir, e))? {
                    let entry = entry.map_err(|e| CheckpointError::io(dir, e))?;
                    names.extend(entry.file_name().into_string().ok());
                }
                names.sort();
                Ok(names)
            }
        }
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Memory(files) => files.contains_key(name),
            // A dangling link is a file that cannot be read, not an absent one.
            Self::Directory(dir) => dir.join(name).symlink_metadata().is_ok(),
        }
    }

    /// Reads a small file whole; an error where it is longer than `limit` bytes.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Cow<'_, [u8]>, CheckpointError> {
        let path = self.path(name);
        let too_long = |len| {
            let problem = format!("is {len} bytes long; at most {limit} are read of such a file");
            CheckpointError::malformed(&path, problem)
        };
        match self {
            Self::Memory(files) => {
                let bytes = files.get(name).ok_or_else(|| absent(&path))?;
                if bytes.len() as u64 > limit {
                    Err(too_long(bytes.len() as u64))
                } else {
                    Ok(Cow::Borrowed(bytes))
                }
            }
            Self::Directory(_) => {
                let (file, len) = self.open(name)?;
                if len > limit {
                    return Err(too_long(len));
                }
                let mut bytes = Vec::new();
                // The file may grow after its length was asked for.
                file.take(limit)
                    .read_to_end(&mut bytes)
                    .map_err(|e| CheckpointError::io(&path, e))?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// Maps a large file.
    pub(super) fn map(&self, name: &str) -> Result<Bytes, CheckpointError> {
        let path = self.path(name);
        match self {
            Self::Memory(files) => files
                .get(name)
                .cloned()
                .map(Bytes::Memory)
                .ok_or_else(|| absent(&path)),
            Self::Directory(_) => {
                let (file, len) = self.open(name)?;
                if len == 0 {
                    return Err(CheckpointError::malformed(
                        &path,
                        "is empty (0 bytes); download it again",
                    ));
                }
                Bytes::map(&file).map_err(|e| CheckpointError::io(&path, e))
            }
        }
    }

    /// Whether `name` can be opened, and if not why.
    pub(super) fn check(&self, name: &str) -> Result<(), CheckpointError> {
        match self {
            Self::Memory(files) if files.contains_key(name) => Ok(()),
            Self::Memory(_) => Err(absent(&self.path(name))),
            Self::Directory(_) => self.locate(name).map(drop),
        }
    }

    /// Where a file of the directory really is, and what the system says of it.
    pub(super) fn stamp(&self, name: &str) -> Result<(PathBuf, Stamp), CheckpointError> {
        let path = self.locate(name)?;
        let failed = |e| CheckpointError::io(&path, e);
        let real = path.canonicalize().map_err(failed)?;
        let about = real.metadata().map_err(failed)?;
        Ok((real, Stamp::of(&about)))
    }

    /// Opens a regular file of the directory and tells its length.
    fn open(&self, name: &str) -> Result<(File, u64), CheckpointError> {
        let path = self.locate(name)?;
        let failed = |e| CheckpointError::io(&path, e);
        let file = File::open(&path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        Ok((file, metadata.len()))
    }

    /// The real path of a file, which must be a regular one inside the directory. The layout of the hub's cache,
    /// where `snapshots/<revision>/<file>` links to `blobs/<hash>`, counts as inside.
    pub(super) fn locate(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        let path = self.path(name);
        let inside = |part| matches!(part, Component::Normal(_));
        if !Path::new(name).components().all(inside) {
            let reason = format!("the file name {name:?} leaves the model directory");
            return Err(CheckpointError::refused(self.root(), reason));
        }
        let failed = |e| CheckpointError::io(&path, e);
        let real = path.canonicalize().map_err(failed)?;
        let root = self.root().canonicalize().map_err(failed)?;
        let blobs = root
            .parent()
            .filter(|p| p.ends_with("snapshots"))
            .and_then(Path::parent)
            .map(|p| p.join("blobs"));
        if !real.starts_with(&root) && !blobs.is_some_and(|blobs| real.starts_with(blobs)) {
            let reason = format!(
                "it is a symbolic link to {}, outside the model directory; copy the file there instead",
                real.display()
            );
            return Err(CheckpointError::refused(&path, reason));
        }
        // Asked of the path, before opening: opening a pipe would wait for its writer.
        if !real.metadata().map_err(failed)?.is_file() {
            return Err(CheckpointError::refused(&path, "it is not a regular file"));
        }
        Ok(path)
    }
}

fn absent(path: &Path) -> CheckpointError {
    CheckpointError::io(path, io::ErrorKind::NotFound.into())
}
