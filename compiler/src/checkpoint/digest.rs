//! Identity of a checkpoint: by content, for artifacts and caches that must be right, and by file times, for asking
//! quickly whether anything may have changed. Knows which files determine a model's outputs.

use std::time::UNIX_EPOCH;

use rayon::prelude::*;

use super::{Checkpoint, CheckpointError, Config};

/// Files beside the weights that determine what a model computes; hashed where present.
const METADATA: [&str; 8] = [
    Config::FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "1_Pooling/config.json",
];

/// Bytes that one task hashes. Part of the definition of the digest.
const CHUNK: usize = 16 << 20;

impl Checkpoint {
    /// BLAKE3 digest of the content: the metadata files and all weights, each with its name and length. Files are
    /// hashed in parallel, in chunks of 16 MiB whose digests are hashed in order.
    ///
    /// # Errors
    /// A metadata file cannot be read.
    pub fn digest(&self) -> Result<[u8; 32], CheckpointError> {
        let mut all = blake3::Hasher::new_derive_key("satura checkpoint content 1");
        for name in METADATA {
            if let Some(bytes) = self.file(name)? {
                hash_file(&mut all, name, &bytes);
            }
        }
        for shard in &self.shards {
            hash_file(&mut all, &shard.name(), &shard.bytes);
        }
        Ok(*all.finalize().as_bytes())
    }

    /// Digest of the paths, sizes and modification times of the same files: cheap, and different whenever a file was
    /// replaced or written to in the usual ways. An embedded checkpoint is fingerprinted by its content.
    ///
    /// # Errors
    /// A file has gone since the checkpoint was opened.
    pub fn fingerprint(&self) -> Result<[u8; 32], CheckpointError> {
        let super::source::Source::Directory(_) = &self.source else {
            return self.digest();
        };
        let mut all = blake3::Hasher::new_derive_key("satura checkpoint fingerprint 1");
        let shards = self.shards.iter().map(|shard| shard.name().into_owned());
        let metadata = METADATA
            .into_iter()
            .filter(|name| self.source.has(name))
            .map(str::to_string);
        for name in metadata.chain(shards) {
            let path = self.source.locate(&name)?;
            let failed = |e| CheckpointError::io(&path, e);
            let real = path.canonicalize().map_err(failed)?;
            let about = real.metadata().map_err(failed)?;
            // A time before 1970 or a system without times counts as 0: the path and size still tell.
            let modified = about
                .modified()
                .ok()
                .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
                .unwrap_or_default();
            hash_field(&mut all, name.as_bytes());
            hash_field(&mut all, real.as_os_str().as_encoded_bytes());
            all.update(&about.len().to_le_bytes())
                .update(&modified.as_nanos().to_le_bytes());
        }
        Ok(*all.finalize().as_bytes())
    }
}

fn hash_file(all: &mut blake3::Hasher, name: &str, bytes: &[u8]) {
    hash_field(all, name.as_bytes());
    all.update(&(bytes.len() as u64).to_le_bytes());
    let chunks: Vec<_> = bytes.par_chunks(CHUNK).map(blake3::hash).collect();
    for chunk in chunks {
        all.update(chunk.as_bytes());
    }
}

/// Length first, so that no two lists of fields are the same bytes.
fn hash_field(all: &mut blake3::Hasher, field: &[u8]) {
    all.update(&(field.len() as u64).to_le_bytes())
        .update(field);
}
