//! Cubins of earlier compilations, kept by whoever opens NVRTC: what names one. Knows neither files nor how long they are kept.

use std::fmt::{self, Debug, Display, Formatter};

/// All that a cubin's bytes depend on: the text, NVRTC's version and options, among them the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(blake3::Hash);

impl Key {
    /// Of a text that a version of NVRTC compiles with the options.
    pub(super) fn new(text: &str, version: (u32, u32), options: &[String]) -> Key {
        let mut all = blake3::Hasher::new_derive_key("satura cubin 1");
        let version = format!("{}.{}", version.0, version.1);
        for part in [&version, text]
            .into_iter()
            .chain(options.iter().map(|o| &**o))
        {
            all.update(&(part.len() as u64).to_le_bytes());
            all.update(part.as_bytes());
        }
        Key(all.finalize())
    }
}

/// In hexadecimal.
impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

/// Where cubins are kept. Several threads ask at once, and other processes may.
pub trait Cubins: Debug + Send + Sync {
    /// What was kept under the key, whole; `None` where that is not certain.
    fn find(&self, key: Key) -> Option<Vec<u8>>;

    /// Keeps a cubin. That it cannot is no error: it is compiled again.
    fn keep(&self, key: Key, cubin: &[u8]);
}
