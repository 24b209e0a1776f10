//! Models of the Hugging Face hub: an id becomes a directory of the cache that Python's `huggingface_hub` shares, holding
//! the files that are needed and no others. What config.json says is not supported is refused before weights are
//! fetched. Knows which files a model is; not what is in them.

mod error;
mod http;
mod outline;
mod snapshot;

pub use error::HubError;
pub use outline::Outline;

use compiler::{
    checkpoint::{self, Checkpoint, Config},
    models,
};
use http::{Description, Http};
use ring::digest::{Context, SHA256};
use snapshot::Folder;
use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// How the hub is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct Hub {
    /// `https://huggingface.co`, or another server of the same kind.
    pub endpoint: String,
    /// The folder of all models.
    pub cache: PathBuf,
    /// Who is asking.
    pub token: Option<String>,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// Whether the network may not be used.
    pub offline: bool,
}

/// Where a model of the hub lies now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// A model directory.
    pub directory: PathBuf,
    /// What did not go as it should, though the model is there.
    pub warning: Option<String>,
}

/// Told of each part that arrives: `(bytes there, bytes in all)`.
pub type Arrival<'a> = &'a dyn Fn(u64, u64);

impl Hub {
    /// As Python's `huggingface_hub` finds it: HF_ENDPOINT; HF_HUB_CACHE, else `hub` in HF_HOME, else in
    /// ~/.cache/huggingface; HF_TOKEN, else the file `token` there; HF_HUB_OFFLINE.
    pub fn of_user() -> Hub {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let home = set("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| Some(env::home_dir()?.join(".cache")));
            cache.unwrap_or_else(env::temp_dir).join("huggingface")
        });
        let cache = set("HF_HUB_CACHE").or(set("HUGGINGFACE_HUB_CACHE"));
        let endpoint = set("HF_ENDPOINT").and_then(|e| e.into_string().ok());
        let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".into());
        let token = set("HF_TOKEN").and_then(|t| t.into_string().ok());
        let file = set("HF_TOKEN_PATH").map_or(home.join("token"), PathBuf::from);
        let token = token.or_else(|| fs::read_to_string(file).ok());
        let offline = set("HF_HUB_OFFLINE").and_then(|o| o.into_string().ok());
        let offline = offline.map(|o| o.to_ascii_lowercase());
        Hub {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache: cache.map_or(home.join("hub"), PathBuf::from),
            token: token
                .map(|t| t.trim().into())
                .filter(|t: &String| !t.is_empty()),
            revision: "main".into(),
            offline: matches!(offline.as_deref(), Some("1" | "true" | "yes" | "on")),
        }
    }

    /// Whether `name` has the form of an id: `org/name`.
    pub fn is_id(name: &str) -> bool {
        let parts = name.split_once('/');
        parts.is_some_and(|(org, name)| snapshot::is_word(org) && snapshot::is_word(name))
    }

    /// The model `id`, fetched where it is not in the cache. A hub that cannot be reached is no error where the cache
    /// has the revision as it last was, but a warning.
    ///
    /// # Errors
    /// See [`HubError`]. Files that have arrived stay in the cache.
    pub fn fetch(&self, id: &str, arrival: Arrival<'_>) -> Result<Fetched, HubError> {
        let here = |directory, warning| Fetched { directory, warning };
        self.ask(id, here, |model, found| {
            let weights = model.small(found, &checkpoint::METADATA)?;
            let (mut before, all) = (0, weights.iter().map(|(_, size)| size).sum());
            for (name, size) in weights {
                model.get(&name, &|here| arrival(before + here, all))?;
                before += size;
            }
            model.folder.remember(model.commit)?;
            Ok(here(model.directory(), None))
        })
    }

    /// Asks the hub for the model `id` and leaves the rest to `online`; where the hub may not or cannot be asked, gives
    /// the directory that the cache has and a warning to `here`.
    fn ask<T>(
        &self,
        id: &str,
        here: impl Fn(PathBuf, Option<String>) -> T,
        online: impl FnOnce(&Model<'_>, &Description) -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let plain = |c: char| c.is_ascii_graphic() && !"?*:[\\^~".contains(c);
        if self.revision.is_empty()
            || !self.revision.chars().all(plain)
            || self
                .revision
                .split('/')
                .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return Err(HubError::Revision {
                id: id.into(),
                revision: self.revision.clone(),
            });
        }
        let folder = Folder::new(&self.cache, id, &self.revision);
        if self.offline {
            return Ok(here(self.cached(id, &folder)?, None));
        }
        let http = Http::new(self, id);
        match http.description() {
            Ok(found) if !snapshot::is_word(&found.sha) => Err(HubError::Revision {
                id: id.into(),
                revision: self.revision.clone(),
            }),
            Ok(found) => {
                let model = Model {
                    id,
                    folder: &folder,
                    http: &http,
                    commit: &found.sha,
                };
                online(&model, &found)
            }
            Err(unreachable @ HubError::Unreachable { .. }) => {
                let Ok(directory) = self.cached(id, &folder) else {
                    return Err(unreachable);
                };
                let warning = format!(
                    "{} cannot be reached; {id} is used as it was last fetched",
                    self.endpoint
                );
                Ok(here(directory, Some(warning)))
            }
            Err(error) => Err(error),
        }
    }

    /// The directory of a revision that the cache has all of.
    fn cached(&self, id: &str, folder: &Folder) -> Result<PathBuf, HubError> {
        let missing = |why: String| HubError::Offline {
            id: id.into(),
            revision: self.revision.clone(),
            cache: self.cache.clone(),
            why,
        };
        let directory = folder.last();
        let directory = directory.ok_or_else(|| missing("it was never fetched".into()))?;
        match Checkpoint::open(&directory) {
            Ok(_) => Ok(directory),
            Err(error) => Err(missing(error.to_string())),
        }
    }
}

/// Without the token.
impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("revision", &self.revision)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// A commit that is being fetched.
struct Model<'a> {
    id: &'a str,
    folder: &'a Folder,
    http: &'a Http<'a>,
    commit: &'a str,
}

impl Model<'_> {
    /// Where its files lie, or will.
    fn directory(&self) -> PathBuf {
        self.folder.snapshot(self.commit)
    }

    /// Makes sure that its config is there, and is of a model that is supported; then those of the files `beside`
    /// weights that it has. Gives the names and sizes of the files of its weights.
    fn small(&self, found: &Description, beside: &[&str]) -> Result<Vec<(String, u64)>, HubError> {
        let siblings = &found.siblings;
        let has = |name: &str| siblings.iter().any(|s| s.name == name);
        let lacks = |wanted| {
            let names = siblings.iter().map(|s| s.name.clone());
            HubError::Files {
                id: self.id.into(),
                wanted,
                found: names.take(20).collect(),
            }
        };
        if !has(Config::FILE) {
            return Err(lacks("config.json"));
        }
        self.get(Config::FILE, &|_| {})?;
        models::supported(&Config::read(&self.directory())?)?;
        for name in beside.iter().filter(|name| has(name)) {
            self.get(name, &|_| {})?;
        }
        let weights = match has(checkpoint::SINGLE) {
            true => vec![checkpoint::SINGLE.to_string()],
            false if has(checkpoint::INDEX) => {
                self.get(checkpoint::INDEX, &|_| {})?;
                checkpoint::shards(&self.directory())?
            }
            false => return Err(lacks("weights in safetensors format (model.safetensors)")),
        };
        let sized = weights.into_iter().map(|name| {
            let sibling = siblings.iter().find(|s| s.name == name)?;
            Some((name, sibling.size.unwrap_or(0)))
        });
        let sized: Option<Vec<(String, u64)>> = sized.collect();
        sized.ok_or_else(|| lacks("shard that its index names"))
    }

    /// Makes sure that `file` is there; `arrival` is told how much of it is.
    fn get(&self, file: &str, arrival: &dyn Fn(u64)) -> Result<(), HubError> {
        let path = self.directory().join(file);
        if let Ok(about) = path.metadata() {
            arrival(about.len());
            return Ok(());
        }
        let found = self.http.file(self.commit, file, 0)?;
        let etag = found.etag.clone();
        let _lock = self.folder.lock(&etag)?;
        let blob = self.folder.blob(&etag);
        if !blob.exists() {
            let part = blob.with_file_name(format!("{etag}.incomplete"));
            self.receive(file, found, &part, arrival)?;
            fs::rename(&part, &blob).map_err(|source| HubError::Write {
                path: blob.clone(),
                source,
            })?;
        }
        self.folder.link(&etag, self.commit, file)
    }

    /// Writes a file to `part`, going on where an earlier attempt ended, and checks it.
    fn receive(
        &self,
        file: &str,
        mut found: http::Download,
        part: &Path,
        arrival: &dyn Fn(u64),
    ) -> Result<(), HubError> {
        let unwritten = |source| HubError::Write {
            path: part.into(),
            source,
        };
        snapshot::folder_of(part)?;
        let mut options = OpenOptions::new();
        let mut out = options
            .create(true)
            .append(true)
            .read(true)
            .open(part)
            .map_err(unwritten)?;
        let mut here = out.metadata().map_err(unwritten)?.len();
        if here > 0 {
            found = self.http.file(self.commit, file, here)?;
            if !found.resumed() {
                out.set_len(0).map_err(unwritten)?;
                here = 0;
            }
        }
        let (etag, length) = (found.etag.clone(), found.length());
        let mut reader = found.reader();
        let mut buffer = vec![0; 1 << 20];
        loop {
            arrival(here);
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    out.write_all(&buffer[..n]).map_err(unwritten)?;
                    here += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(HubError::Interrupted {
                        id: self.id.into(),
                        file: file.into(),
                        here,
                        why: e.to_string(),
                    });
                }
            }
        }
        out.sync_all().map_err(unwritten)?;
        let damage = match length {
            Some(length) if length != here => Some(format!("{here} bytes of {length}")),
            _ => differs(&etag, part).map_err(unwritten)?,
        };
        let Some(why) = damage else { return Ok(()) };
        // Or the next attempt would go on from it.
        fs::remove_file(part).map_err(unwritten)?;
        Err(HubError::Damaged {
            id: self.id.into(),
            file: file.into(),
            why,
        })
    }
}

/// How a file differs from its SHA-256, where the ETag is one.
fn differs(etag: &str, path: &Path) -> io::Result<Option<String>> {
    if etag.len() != 64 {
        return Ok(None);
    }
    let (mut file, mut hash) = (File::open(path)?, Context::new(&SHA256));
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let found: String = hash
        .finish()
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    Ok((found != etag).then(|| format!("its SHA-256 is {found}, not {etag}")))
}
