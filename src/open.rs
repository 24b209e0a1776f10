//! From what a user names to a model that runs: a model of the hub is fetched, a directory is compiled, or found compiled
//! in the cache; an artifact is loaded. Knows where models come from; neither what they are nor what is done with them.

use crate::{
    cache::{Cache, Key},
    hub::{Arrival, Hub, HubError},
    nvrtc::{self, NoNvrtc},
    staged::{self, Staged},
    tune::Tables,
};
use compiler::{
    CompileError, Options, Precision, Stage,
    checkpoint::{Checkpoint, CheckpointError, Config},
    models,
};
use ir::{
    Description,
    artifact::{ArtifactError, HEADER_BYTES, Header},
};
use runtime::{
    Model,
    devices::{Bytes, Device},
    tokenizer::{Tokenizer, TokenizerError},
};
use std::{
    fs::File,
    io::{self, BufWriter, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
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
    /// The name leads nowhere, or to something else than is needed.
    #[error("{name}: {why}")]
    Source {
        /// As given.
        name: String,
        /// What it is instead, and what to do.
        why: String,
    },
    /// The hub does not have it, or does not give it.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The model's files are at fault.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Compiling for GPUs needs what is not there.
    #[error(transparent)]
    Nvrtc(#[from] NoNvrtc),
    /// It does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// Its tokenizer is at fault.
    #[error("{name}: {source}")]
    Tokenizer {
        /// The model.
        name: String,
        /// What is wrong.
        source: TokenizerError,
    },
    /// It does not load.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// The artifact cannot be written.
    #[error("{}: {source}; choose another place", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Source {
    /// What `name` means: a directory, an artifact, an id of the hub, or without a name the default model. What is there
    /// as a file or directory is that, whatever the hub has.
    ///
    /// A model of the hub is fetched where the cache does not hold it; a warning says where that did not go as it
    /// should.
    ///
    /// # Errors
    /// There is nothing of that name, here or on the hub.
    pub fn find(
        name: Option<&str>,
        hub: &Hub,
        arrival: Arrival<'_>,
    ) -> Result<(Source, Option<String>), Error> {
        match Source::here(name)? {
            Ok(source) => Ok((source, None)),
            Err(id) => {
                let fetched = hub.fetch(id, arrival)?;
                Ok((Source::Directory(fetched.directory), fetched.warning))
            }
        }
    }

    /// What `name` means without the hub: that, or the id of a model there.
    ///
    /// # Errors
    /// It is neither.
    pub fn here(name: Option<&str>) -> Result<Result<Source, &str>, Error> {
        let Some(name) = name else {
            return Ok(Ok(Source::Embedded));
        };
        let path = Path::new(name);
        if path.is_dir() {
            return Ok(Ok(Source::Directory(path.into())));
        }
        if path.exists() {
            return Ok(Ok(Source::Artifact(path.into())));
        }
        if !Hub::is_id(name) {
            let why = "there is no such file or directory; give a model directory (config.json, *.safetensors), a file \
                       that `satura compile` wrote, or an id of the Hugging Face hub (org/name)";
            return Err(Error::Source {
                name: name.into(),
                why: why.into(),
            });
        }
        Ok(Err(name))
    }

    /// The checkpoint behind it.
    ///
    /// # Errors
    /// It is damaged, or an artifact, which holds none.
    pub fn checkpoint(&self) -> Result<Checkpoint, Error> {
        Ok(match self {
            Source::Embedded => crate::embedded()?,
            Source::Directory(dir) => {
                // What is not supported is refused whatever its weights are.
                models::supported(&Config::read(dir)?).map_err(CompileError::from)?;
                settled(dir)?
            }
            Source::Artifact(file) => {
                return Err(Error::Source {
                    name: file.display().to_string(),
                    why: "is a file; this needs a model directory (config.json, *.safetensors)"
                        .into(),
                });
            }
        })
    }
}

/// Opens a directory whose files are old enough for their times to tell whether they change from now on: a file that
/// was written to a moment ago might be again, within one tick of the file system's clock.
fn settled(dir: &Path) -> Result<Checkpoint, CheckpointError> {
    let checkpoint = Checkpoint::open(dir)?;
    let changed = checkpoint.last_change();
    // Times in whole seconds come from file systems that know no others.
    let tick = match changed.subsec_nanos() {
        0 => Duration::from_secs(2),
        _ => Duration::from_millis(20),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let age = now.unwrap_or_default().checked_sub(changed);
    match age.and_then(|age| tick.checked_sub(age)) {
        Some(wait) if !wait.is_zero() => {
            std::thread::sleep(wait);
            Checkpoint::open(dir)
        }
        _ => Ok(checkpoint),
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

/// How a model is opened.
pub struct Opening<'a> {
    /// How its numbers are stored and rounded, where it is compiled.
    pub precision: Precision,
    /// Where the model is to run; by default what an artifact was compiled for, or the processor.
    pub device: Option<Device>,
    /// Where compiled models are kept; `None` compiles anew and keeps nothing.
    pub cache: Option<Cache>,
    /// Told of each stage of a compilation: `(stage, done, of)`.
    pub progress: &'a dyn Fn(Stage, u64, u64),
}

impl Default for Opening<'_> {
    fn default() -> Self {
        Opening {
            precision: Precision::default(),
            device: None,
            cache: Cache::of_user(),
            progress: &|_, _, _| {},
        }
    }
}

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

/// Opens a model for this machine.
///
/// # Errors
/// The files are damaged or not supported, or this machine cannot run them. A cache that cannot be used is no error
/// but a warning.
pub fn open(source: &Source, how: &Opening<'_>) -> Result<Opened, Error> {
    let (mut warnings, start) = (vec![], Instant::now());
    if let Source::Artifact(path) = source {
        let model = Model::open(path)?;
        let device = Device::of(model.target());
        if how.device.is_some_and(|wanted| wanted != device) {
            return Err(Error::Source {
                name: source.to_string(),
                why: format!(
                    "is compiled for {}; compile the model for the other device, or leave out --device",
                    model.target()
                ),
            });
        }
        return Ok(Opened {
            model,
            load: start.elapsed(),
            compile: None,
            warnings,
        });
    }
    let checkpoint = source.checkpoint()?;
    let mut options = Options {
        precision: how.precision,
        ..Options::new(how.device.unwrap_or_default().host()?)
    };
    if let Some(cache) = &how.cache {
        match Tables::of(cache).of_target(&options.target) {
            Ok(costs) => options.costs = costs,
            Err(error) => warnings.push(format!("measured costs are not used: {error}")),
        }
    }
    let key = Key::new(&checkpoint, &options)?;
    if let Some(path) = how.cache.as_ref().and_then(|cache| cache.find(key)) {
        match Model::open(&path) {
            Ok(model) => {
                return Ok(Opened {
                    model,
                    load: start.elapsed(),
                    compile: None,
                    warnings,
                });
            }
            Err(error) => warnings.push(format!("cached artifact not used: {error}")),
        }
    }

    if options.target.is_gpu() {
        options.nvrtc = Some(nvrtc::find(how.cache.as_ref())?);
    }
    let start = Instant::now();
    let staged = compile_somewhere(&checkpoint, &options, how, &mut warnings)?;
    let compile = start.elapsed();
    // Or its pages would be in memory beside those of the artifact.
    drop(checkpoint);

    let start = Instant::now();
    let bytes = Bytes::of_file("the compiled model", staged.file())?;
    let model = Model::from_bytes(bytes)?;
    let load = start.elapsed();
    if let (Compiled::Cached(staged), Some(cache)) = (staged, &how.cache)
        && let Err(error) = cache.add(staged, key)
    {
        warnings.push(not_kept(cache, &error));
    }
    Ok(Opened {
        model,
        load,
        compile: Some(compile),
        warnings,
    })
}

/// A complete artifact.
enum Compiled {
    /// In the cache's folder, not yet under its name.
    Cached(Staged),
    Uncached(File),
}

impl Compiled {
    fn file(&self) -> &File {
        match self {
            Compiled::Cached(staged) => staged.file(),
            Compiled::Uncached(file) => file,
        }
    }
}

/// Compiles into the cache where it has room, else into memory.
fn compile_somewhere(
    checkpoint: &Checkpoint,
    options: &Options,
    how: &Opening<'_>,
    warnings: &mut Vec<String>,
) -> Result<Compiled, Error> {
    if let Some(cache) = &how.cache {
        let written = cache.stage().map_err(|error| Error::Write {
            path: cache.folder().into(),
            source: error,
        });
        let written = written.and_then(|staged| {
            compile_into(checkpoint, options, staged.file(), how.progress)?;
            Ok(staged)
        });
        match written {
            Ok(staged) => return Ok(Compiled::Cached(staged)),
            Err(
                Error::Write { source, .. }
                | Error::Compile(CompileError::Artifact(ArtifactError::Io(source))),
            ) => warnings.push(not_kept(cache, &source)),
            Err(error) => return Err(error),
        }
    }
    let file = staged::in_memory().map_err(|source| Error::Write {
        path: std::env::temp_dir(),
        source,
    })?;
    compile_into(checkpoint, options, &file, how.progress)?;
    Ok(Compiled::Uncached(file))
}

fn not_kept(cache: &Cache, error: &io::Error) -> String {
    let folder = cache.folder().display();
    format!(
        "the compiled model is not kept: {folder}: {error}; set SATURA_CACHE to another folder, or use --no-cache"
    )
}

fn compile_into(
    checkpoint: &Checkpoint,
    options: &Options,
    file: &File,
    progress: &dyn Fn(Stage, u64, u64),
) -> Result<(), Error> {
    if let Some(json) = checkpoint.file(TOKENIZER)? {
        parse(&checkpoint.config().file().with_file_name(TOKENIZER), &json)?;
    }
    let out = BufWriter::with_capacity(1 << 20, file);
    compiler::compile(checkpoint, options, out, progress)?;
    Ok(())
}

/// An artifact to be written.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    staged: Staged,
}

impl Output {
    /// Makes sure that an artifact can be written to `path`, before the work begins.
    ///
    /// # Errors
    /// The folder is missing or not writable, or `path` is something that an artifact must not replace: a directory,
    /// a device, a file that is no artifact.
    pub fn new(path: &Path) -> Result<Output, Error> {
        let failed = |source| Error::Write {
            path: path.into(),
            source,
        };
        if path.file_name().is_none() || !replaceable(path).map_err(failed)? {
            let why = "exists and is not an artifact; satura replaces artifacts only";
            return Err(Error::Source {
                name: path.display().to_string(),
                why: why.into(),
            });
        }
        let staged = Staged::new(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
        Ok(Output {
            path: path.into(),
            staged,
        })
    }

    /// Compiles a model into it. The file appears whole or not at all; returns its size in bytes.
    ///
    /// # Errors
    /// The model is at fault, or the disk is full.
    pub fn compile(
        self,
        checkpoint: &Checkpoint,
        options: &Options,
        progress: &dyn Fn(Stage, u64, u64),
    ) -> Result<u64, Error> {
        let path = self.path.clone();
        self.fill(
            |file| match compile_into(checkpoint, options, file, progress) {
                Err(Error::Compile(CompileError::Artifact(ArtifactError::Io(source)))) => {
                    Err(Error::Write { path, source })
                }
                done => done,
            },
        )
    }

    /// Lets `write` write the artifact. The file appears whole or not at all; returns its size in bytes.
    ///
    /// # Errors
    /// Those of `write`, or the disk is full.
    pub fn fill<E: From<Error>>(
        self,
        write: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<u64, E> {
        let failed = |source| Error::Write {
            path: self.path.clone(),
            source,
        };
        write(self.staged.file())?;
        let bytes = self.staged.file().metadata().map_err(failed)?.len();
        let written = self.staged.commit(&self.path);
        written.map_err(|source| Error::Write {
            path: self.path.clone(),
            source,
        })?;
        Ok(bytes)
    }
}

/// Whether an artifact may take the place of what is at `path`: nothing, an empty file, or another artifact.
fn replaceable(path: &Path) -> io::Result<bool> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
        Ok(about) if !about.is_file() => Ok(false),
        Ok(about) if about.len() == 0 => Ok(true),
        Ok(about) => {
            let mut start = vec![];
            File::open(path)?
                .take(HEADER_BYTES as u64)
                .read_to_end(&mut start)?;
            let header = Header::decode(&start, about.len());
            Ok(!matches!(header, Err(ArtifactError::Magic { .. })))
        }
    }
}

pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// The tokenizer that a model brings along.
///
/// # Errors
/// It has none, or a broken one, or that of another model.
pub fn tokenizer(model: &Model) -> Result<Tokenizer, Error> {
    // Where it was loaded from may be the cache, which nobody asked for.
    fitting(model.tokenizer_json(), model.description())
}

/// The tokenizer that `json` says, for a model.
pub(crate) fn fitting(json: &[u8], model: &Description) -> Result<Tokenizer, Error> {
    let name = &model.architecture;
    if json.is_empty() {
        let why = "has no tokenizer.json, so it takes no text; add one to the model's directory";
        return Err(Error::Source {
            name: name.clone(),
            why: why.into(),
        });
    }
    let tokenizer = parse(Path::new(name), json)?;
    let fits = tokenizer.check_vocabulary(model.vocabulary);
    fits.map_err(|source| Error::Tokenizer {
        name: name.clone(),
        source,
    })?;
    Ok(tokenizer)
}

fn parse(name: &Path, json: &[u8]) -> Result<Tokenizer, Error> {
    Tokenizer::from_bytes(json).map_err(|source| Error::Tokenizer {
        name: name.display().to_string(),
        source,
    })
}
