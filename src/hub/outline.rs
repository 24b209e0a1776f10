//! A model of the hub that is only looked at: its small files, and weights that are holes behind their headers. Knows
//! where headers end; not what they say.

use super::{Hub, HubError, Model};
use compiler::checkpoint;
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Longest header that is fetched, in bytes: longer ones are refused by whoever reads them.
const MAX_HEADER: u64 = 100 << 20;

/// Of no use without weights, and large.
const TOKENIZER: &str = "tokenizer.json";

/// Where what was fetched of a model lies now.
#[derive(Debug)]
pub struct Outline {
    /// A model directory, all of whose weights may be zeros.
    pub directory: PathBuf,
    /// What did not go as it should, though the model is there.
    pub warning: Option<String>,
    /// Removes the directory when it is dropped, where that is not in the cache.
    _temporary: Option<TempDir>,
}

impl Hub {
    /// The outline of the model `id`; the model itself where the cache has it. As [`Hub::fetch`], but fetches no weights.
    ///
    /// # Errors
    /// As [`Hub::fetch`].
    pub fn outline(&self, id: &str) -> Result<Outline, HubError> {
        let here = |directory, warning| Outline {
            directory,
            warning,
            _temporary: None,
        };
        self.ask(id, here, |model, found| {
            let small = checkpoint::METADATA.iter().copied();
            let small: Vec<&str> = small.filter(|name| *name != TOKENIZER).collect();
            let weights = model.small(found, &small)?;
            let directory = model.directory();
            if weights
                .iter()
                .all(|(name, _)| directory.join(name).exists())
            {
                return Ok(here(directory, None));
            }
            let temporary = TempDir::new().map_err(unwritten(&std::env::temp_dir()))?;
            for name in small.into_iter().chain([checkpoint::INDEX]) {
                let (from, to) = (directory.join(name), temporary.path().join(name));
                if from.exists() {
                    super::snapshot::folder_of(&to)?;
                    fs::copy(&from, &to).map_err(unwritten(&to))?;
                }
            }
            for (name, _) in &weights {
                model.header(name, &temporary.path().join(name))?;
            }
            Ok(Outline {
                directory: temporary.path().into(),
                warning: None,
                _temporary: Some(temporary),
            })
        })
    }
}

impl Model<'_> {
    /// Writes the header of the safetensors file `file` to `path`, and a hole as long as what follows it.
    fn header(&self, file: &str, path: &Path) -> Result<(), HubError> {
        let found = self.http.file(self.commit, file, 0)?;
        let interrupted = |why: String| HubError::Interrupted {
            id: self.id.into(),
            file: file.into(),
            here: 0,
            why,
        };
        let length = found.length();
        let length = length.ok_or_else(|| interrupted("its length is not said".into()))?;
        let (mut reader, mut count) = (found.reader(), [0; 8]);
        let failed = |e: io::Error| interrupted(e.to_string());
        reader.read_exact(&mut count).map_err(failed)?;
        let mut header = count.to_vec();
        let rest = u64::from_le_bytes(count).min(MAX_HEADER);
        reader.take(rest).read_to_end(&mut header).map_err(failed)?;
        super::snapshot::folder_of(path)?;
        let written = File::create(path).and_then(|mut out| {
            out.write_all(&header)?;
            out.set_len(length)
        });
        written.map_err(unwritten(path))
    }
}

fn unwritten(path: &Path) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_path_buf();
    |source| HubError::Write { path, source }
}
