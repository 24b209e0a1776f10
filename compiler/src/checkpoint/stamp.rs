//! Whether a file is still the one that was read: its identity, size and times as the system tells them. Never looks
//! inside a file.

use std::fs::Metadata;
use std::path::PathBuf;
use std::time::Duration;
#[cfg(not(unix))]
use std::time::UNIX_EPOCH;

use super::CheckpointError;
use super::source::Source;

/// What the system says of a file. On Unix this differs whenever the file was written to or replaced, even where size
/// and modification time were put back: nothing puts back the time of the last change (`ctime`) but the system's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    len: u64,
    /// Nanoseconds since 1970.
    modified: i128,
    /// Nanoseconds since 1970; the modification time where the system knows no other.
    changed: i128,
}

impl Stamp {
    #[cfg(unix)]
    pub(super) fn of(about: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let nanos =
            |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self {
            inode: about.ino(),
            len: about.len(),
            modified: nanos(about.mtime(), about.mtime_nsec()),
            changed: nanos(about.ctime(), about.ctime_nsec()),
        }
    }

    #[cfg(not(unix))]
    pub(super) fn of(about: &Metadata) -> Self {
        let modified = about.modified().ok();
        let since = modified.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let nanos = since.unwrap_or_default().as_nanos() as i128;
        Self {
            inode: 0,
            len: about.len(),
            modified: nanos,
            changed: nanos,
        }
    }

    /// When the file last changed, since 1970.
    pub(super) fn changed(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.changed).unwrap_or(0))
    }

    pub(super) fn bytes(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&self.inode.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.modified.to_le_bytes());
        bytes[32..].copy_from_slice(&self.changed.to_le_bytes());
        bytes
    }
}

/// A file of a checkpoint as it was when it was opened.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: String,
    /// Where it really is, and its stamp; `None` where there was no such file.
    pub(super) found: Option<(PathBuf, Stamp)>,
}

impl Record {
    /// The file of this name as it is now.
    pub(super) fn now(source: &Source, name: &str) -> Result<Self, CheckpointError> {
        let found = match source.has(name) {
            true => Some(source.stamp(name)?),
            false => None,
        };
        let name = name.to_string();
        Ok(Self { name, found })
    }

    /// How the file differs from what it is now, if it does.
    pub(super) fn difference(&self, source: &Source) -> Option<String> {
        let now = match Self::now(source, &self.name) {
            Ok(now) => now.found,
            Err(error) => return Some(error.to_string()),
        };
        let why = match (&self.found, &now) {
            (None, None) => return None,
            (None, Some(_)) => "it was not there".to_string(),
            (Some(_), None) => "it is gone".to_string(),
            (Some(before), Some(now)) if before == now => return None,
            (Some((path, before)), Some((real, now))) => {
                if path != real || before.inode != now.inode {
                    "another file is in its place".to_string()
                } else if before.len != now.len {
                    format!("it was {} bytes long and is {}", before.len, now.len)
                } else {
                    "it was written to".to_string()
                }
            }
        };
        Some(why)
    }
}
