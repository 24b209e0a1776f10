//! Where tables of costs are kept: a folder beside the compiled models, a file a machine.

use super::{Error, Machine};
use crate::{Cache, staged::Staged};
use compiler::optimize::cost::CostTable;
use ir::Target;
use std::{
    fs,
    io::{self, ErrorKind},
    path::PathBuf,
    sync::Arc,
};

/// The tables of one cache.
#[derive(Clone, Debug)]
pub struct Tables {
    folder: PathBuf,
}

impl Tables {
    /// Those beside the cache's models.
    pub fn of(cache: &Cache) -> Tables {
        Tables {
            folder: cache.folder().join("tune"),
        }
    }

    /// Where the table of a machine is or would be.
    pub fn path(&self, machine: &Machine) -> PathBuf {
        let key = blake3::hash(machine.key().as_bytes()).to_hex();
        self.folder.join(format!("{}.json", &key[..16]))
    }

    /// The table of a machine; `None` where it was not measured.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or is of other kernels.
    pub fn find(&self, machine: &Machine) -> Result<Option<Arc<CostTable>>, Error> {
        let path = self.path(machine);
        let json = match fs::read(&path) {
            Ok(json) => json,
            // Below a file there is nothing, either.
            Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => {
                return Ok(None);
            }
            Err(source) => return Err(Error::Read { path, source }),
        };
        match CostTable::decode(&json) {
            Ok(table) => Ok(Some(Arc::new(table))),
            Err(source) => Err(Error::Table { path, source }),
        }
    }

    /// What kernels cost where code for `target` is to run: `None` where that is another machine, or was not measured.
    ///
    /// # Errors
    /// As [`Tables::find`].
    pub fn of_target(&self, target: &Target) -> Result<Option<Arc<CostTable>>, Error> {
        match Machine::of(target) {
            Some(machine) => self.find(&machine),
            None => Ok(None),
        }
    }

    /// Keeps the table of a machine, in place of an earlier one; gives its file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn keep(&self, machine: &Machine, table: &CostTable) -> Result<PathBuf, Error> {
        let path = self.path(machine);
        let write = || {
            fs::create_dir_all(&self.folder)?;
            let staged = Staged::new(&self.folder)?;
            io::Write::write_all(&mut staged.file(), table.encode().as_bytes())?;
            staged.commit(&path)
        };
        match write() {
            Ok(()) => Ok(path),
            Err(source) => Err(Error::Write { path, source }),
        }
    }
}
