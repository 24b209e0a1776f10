//! Identity of a checkpoint: by content, for artifacts that must say what they were made from, and by file times, for
//! asking quickly whether anything may have changed. Knows which files determine a model's outputs.

use rayon::prelude::*;

use super::source::Source;
use super::stamp::Record;
use super::{Checkpoint, CheckpointError, Config};

/// Files beside the weights that determine what a model computes, and all that are read of them; hashed where present.
pub const METADATA: [&str; 11] = [
    Config::FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "preprocessor_config.json",
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

    /// Digest of what the system says of the same files as they were when the checkpoint was opened: paths, sizes,
    /// inodes, times of modification and (on Unix) of change. Cheap, and different whenever a file was replaced or
    /// written to, within the resolution of the file system's clock. Files in memory are fingerprinted by content.
    ///
    /// # Errors
    /// As [`Checkpoint::digest`].
    pub fn fingerprint(&self) -> Result<[u8; 32], CheckpointError> {
        let Source::Directory(_) = &self.source else {
            return self.digest();
        };
        let mut all = blake3::Hasher::new_derive_key("satura checkpoint fingerprint 2");
        for record in &self.records {
            if let Some((path, stamp)) = &record.found {
                hash_field(&mut all, record.name.as_bytes());
                hash_field(&mut all, path.as_os_str().as_encoded_bytes());
                all.update(&stamp.bytes());
            }
        }
        Ok(*all.finalize().as_bytes())
    }
}

/// The metadata files as they are now; none in memory.
pub(super) fn records(source: &Source) -> Result<Vec<Record>, CheckpointError> {
    let Source::Directory(_) = source else {
        return Ok(vec![]);
    };
    let records = METADATA.iter().map(|name| Record::now(source, name));
    records.collect()
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
