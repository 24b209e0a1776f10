//! From what a user names to a model that runs: a directory is compiled, an artifact is loaded. Knows where models
//! come from; neither what they are nor what is done with them.

use compiler::checkpoint::{Checkpoint, CheckpointError};
use runtime::Model;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Built into this program.
    Embedded,
    /// A Hugging Face directory: config.json, tokenizer.json, weights.
    Directory(PathBuf),
    /// A file that `satura compile` wrote.
    Artifact(PathBuf),
}

/// Why a model cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name leads nowhere.
    #[error("{name}: {why}")]
    Source {
        /// As given.
        name: String,
        /// What it is instead, and what to do.
        why: String,
    },
    /// The model's files are at fault.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// It does not load.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
}

impl Source {
    /// What `name` means: a directory, an artifact, or without a name the default model.
    ///
    /// # Errors
    /// There is nothing of that name; a hub id (`org/name`) is answered with how to get the files.
    pub fn parse(name: Option<&str>) -> Result<Source, Error> {
        let Some(name) = name else {
            return Ok(Source::Embedded);
        };
        let path = Path::new(name);
        if path.is_dir() {
            return Ok(Source::Directory(path.into()));
        }
        if path.exists() {
            return Ok(Source::Artifact(path.into()));
        }
        let why = if is_hub_id(name) {
            format!(
                "there is no such file or directory, and models of the Hugging Face hub are not fetched yet; \
                 download it (`hf download {name} --local-dir DIR`) and give the directory"
            )
        } else {
            "there is no such file or directory; give a model directory (config.json, *.safetensors) or a file that \
             `satura compile` wrote"
                .into()
        };
        Err(Error::Source {
            name: name.into(),
            why,
        })
    }

    /// The checkpoint behind it.
    ///
    /// # Errors
    /// It is damaged, or an artifact, which holds none.
    pub fn checkpoint(&self) -> Result<Checkpoint, Error> {
        Ok(match self {
            Source::Embedded => crate::embedded()?,
            Source::Directory(dir) => Checkpoint::open(dir)?,
            Source::Artifact(file) => {
                return Err(Error::Source {
                    name: file.display().to_string(),
                    why: "is a file, a model directory (config.json, *.safetensors) is needed here"
                        .into(),
                });
            }
        })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Embedded => f.write_str(crate::embedded::NAME),
            Source::Directory(path) | Source::Artifact(path) => path.display().fmt(f),
        }
    }
}

/// `org/name`, as the hub allows it.
fn is_hub_id(name: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    name.split_once('/')
        .is_some_and(|(org, name)| word(org) && word(name))
}

/// How a model is opened.
#[derive(Default)]
pub struct Opening {}

/// A model, and what opening it took.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Ready to run.
    pub model: Arc<Model>,
    /// Time to map and check the artifact.
    pub load: Duration,
    /// Time to compile it; `None` where that was done before.
    pub compile: Option<Duration>,
    /// What did not go as it should, though the model runs: about the cache.
    pub warnings: Vec<String>,
}

/// Opens a model.
///
/// # Errors
/// The files are damaged or not supported, or this machine cannot run them.
pub fn open(source: &Source, _how: &Opening) -> Result<Opened, Error> {
    Err(Error::Source {
        name: source.to_string(),
        why: "not built yet".into(),
    })
}
