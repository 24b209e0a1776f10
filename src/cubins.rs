//! Machine code of kernels for GPUs kept between compilations: a folder beside the compiled models, a file a kernel. NVRTC takes a
//! tenth of a second for most, and models of one family have many alike. Knows files; not what is in them, but that it is whole.

use crate::{Cache, shelf::Shelf};
use compiler::backends::cuda::{self, Key};
use std::{fs, io::Write, sync::Arc};

/// Most bytes that are kept: some ten thousand kernels.
const BYTES: u64 = 1 << 30;
/// Bytes of the digest in front of a cubin.
const DIGEST: usize = blake3::OUT_LEN;

/// The kernels of one cache.
#[derive(Clone, Debug)]
pub(crate) struct Cubins(Shelf);

impl Cubins {
    /// Those beside the cache's models; deletes old ones.
    pub fn of(cache: &Cache) -> Arc<Cubins> {
        let shelf = Shelf::new(cache.folder().join("cubins"), "cubin", BYTES);
        shelf.prune();
        Arc::new(Cubins(shelf))
    }
}

/// What stands in front of a cubin: it is this one, and whole.
fn seal(key: Key, cubin: &[u8]) -> blake3::Hash {
    let mut all = blake3::Hasher::new();
    all.update(key.to_string().as_bytes()).update(cubin);
    all.finalize()
}

impl cuda::Cubins for Cubins {
    fn find(&self, key: Key) -> Option<Vec<u8>> {
        let path = self.0.find(&key.to_string())?;
        let mut bytes = fs::read(path).ok()?;
        let (digest, cubin) = bytes.split_first_chunk::<DIGEST>()?;
        if seal(key, cubin) != *digest {
            return None;
        }
        bytes.drain(..DIGEST);
        Some(bytes)
    }

    fn keep(&self, key: Key, cubin: &[u8]) {
        let write = || {
            let staged = self.0.stage()?;
            let mut file = staged.file();
            file.write_all(seal(key, cubin).as_bytes())?;
            file.write_all(cubin)?;
            staged.publish(&self.0.path(&key.to_string()))
        };
        // What cannot be kept is compiled again.
        let _ = write();
    }
}
