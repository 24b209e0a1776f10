//! A file that appears under its name whole or not at all, however the writing ends. Knows nothing of what is written.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// A file being written in the folder it is meant for. Where the system can, it has no name until it is complete, so
/// that even a killed process leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Staged {
    folder: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    #[cfg(target_os = "linux")]
    Nameless(File),
    Named(tempfile::NamedTempFile),
}

/// Marks files that are being written.
pub(crate) const SUFFIX: &str = ".satura-tmp";

impl Staged {
    /// An empty file in `folder`.
    ///
    /// # Errors
    /// The folder is missing, full or not writable.
    pub fn new(folder: &Path) -> io::Result<Staged> {
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        Ok(Staged {
            content: content(folder)?,
            folder: folder.into(),
        })
    }

    /// What has been written so far.
    pub fn file(&self) -> &File {
        match &self.content {
            #[cfg(target_os = "linux")]
            Content::Nameless(file) => file,
            Content::Named(file) => file.as_file(),
        }
    }

    /// Gives the file its name, replacing what has that name, once its bytes are on disk.
    ///
    /// # Errors
    /// Those of the file system; then nothing has changed.
    pub fn commit(self, path: &Path) -> io::Result<()> {
        self.file().sync_all()?;
        let folder = self.folder.clone();
        self.publish(path)?;
        // The name itself reaches the disk with the folder. Not every file system can do that, and none must.
        let _ = File::open(&folder).and_then(|folder| folder.sync_all());
        Ok(())
    }

    /// The same without waiting for the disk: a machine that fails now may keep the name and lose the bytes.
    ///
    /// # Errors
    /// As [`Staged::commit`].
    pub fn publish(self, path: &Path) -> io::Result<()> {
        match self.content {
            #[cfg(target_os = "linux")]
            Content::Nameless(file) => {
                let link = |name: &Path| link(&file, name);
                let named = builder().make_in(&self.folder, link)?;
                named.persist(path).map_err(|e| e.error)?;
            }
            Content::Named(file) => {
                file.persist(path).map_err(|e| e.error)?;
            }
        }
        Ok(())
    }
}

fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(SUFFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the user's umask is applied to it.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder
}

#[cfg(target_os = "linux")]
fn content(folder: &Path) -> io::Result<Content> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match open(folder, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => Ok(Content::Nameless(file.into())),
        // Not every file system has nameless files; where none has a name either, this is the reason to tell.
        Err(error) => match builder().tempfile_in(folder) {
            Ok(file) => Ok(Content::Named(file)),
            Err(_) => Err(error.into()),
        },
    }
}

#[cfg(not(target_os = "linux"))]
fn content(folder: &Path) -> io::Result<Content> {
    builder().tempfile_in(folder).map(Content::Named)
}

/// Gives a nameless file a name that is not taken.
#[cfg(target_os = "linux")]
fn link(file: &File, name: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd;
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, open, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

/// A file without a name and without a place on any disk, where the system has such; else one in the folder for
/// temporary files.
pub(crate) fn in_memory() -> io::Result<File> {
    #[cfg(target_os = "linux")]
    if let Ok(file) = rustix::fs::memfd_create("satura", rustix::fs::MemfdFlags::CLOEXEC) {
        return Ok(file.into());
    }
    tempfile::tempfile()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write};

    #[test]
    fn appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let write = |text: &str| {
            let staged = Staged::new(folder.path()).unwrap();
            staged.file().write_all(text.as_bytes()).unwrap();
            staged
        };
        drop(write("dropped"));
        assert_eq!(names(), 0);
        for text in ["first", "replaced"] {
            write(text).commit(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(names(), 1);
        }
        assert!(Staged::new(&folder.path().join("none")).is_err());
    }
}
