//! Why a model of the hub is not to be had. Knows words only.

use compiler::{checkpoint::CheckpointError, models::ModelError};
use std::{io, path::PathBuf};

/// Why a model of the hub is not to be had; `id` is what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// There is no way to the hub.
    #[error(
        "{id}: there is no such file or directory, and {endpoint} cannot be reached: {why}; check the network and \
         HF_ENDPOINT, or give a model directory"
    )]
    Unreachable {
        /// As asked for.
        id: String,
        /// The hub.
        endpoint: String,
        /// What the network says.
        why: String,
    },
    /// The hub knows no such model, or does not say that it does.
    #[error(
        "{id}: there is no such file or directory, and {endpoint} has no model of that id, or it is private; check the \
         spelling, or set HF_TOKEN to a token that may read it"
    )]
    Absent {
        /// As asked for.
        id: String,
        /// The hub.
        endpoint: String,
    },
    /// The model has no such version.
    #[error("{id}: has no revision {revision:?}; give a branch, a tag or a commit with --revision")]
    Revision {
        /// The model.
        id: String,
        /// As asked for.
        revision: String,
    },
    /// The hub gives the model only to those whom its authors let.
    #[error(
        "{id}: is not given to everybody ({status}): accept its terms at {endpoint}/{id}, then set HF_TOKEN to a token \
         of that account{}",
        if *token { " (the one that is set now does not suffice)" } else { "" }
    )]
    Gated {
        /// The model.
        id: String,
        /// The hub.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// The hub answers something that it should not.
    #[error("{id}: {url}: {why}; try again later")]
    Answer {
        /// The model.
        id: String,
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// The connection was lost.
    #[error(
        "{id}: {file} stops after {here} bytes: {why}; what came is kept, run it again to go on from there"
    )]
    Interrupted {
        /// The model.
        id: String,
        /// The file in it.
        file: String,
        /// Bytes that came.
        here: u64,
        /// What the network says.
        why: String,
    },
    /// Another file came than was announced.
    #[error("{id}: {file} arrived damaged: {why}; what came is deleted, try again")]
    Damaged {
        /// The model.
        id: String,
        /// The file in it.
        file: String,
        /// Both sides.
        why: String,
    },
    /// The network may not be used, and the cache has no such model.
    #[error(
        "{id}: there is no such file or directory, and the cache {} does not hold it{}: {why}; run once without \
         --offline",
        cache.display(),
        if revision == "main" { String::new() } else { format!(" at revision {revision:?}") }
    )]
    Offline {
        /// The model.
        id: String,
        /// The version.
        revision: String,
        /// Where it was looked for.
        cache: PathBuf,
        /// What is missing.
        why: String,
    },
    /// The model's files are of no kind that is read.
    #[error("{id}: has no {wanted}; it has {}", found.join(", "))]
    Files {
        /// The model.
        id: String,
        /// What is needed.
        wanted: &'static str,
        /// Names of its files, some of them.
        found: Vec<String>,
    },
    /// The model is not supported, as its config says.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// One of its files is damaged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The cache cannot be written.
    #[error("{}: {source}; set HF_HUB_CACHE to a folder with room", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}
