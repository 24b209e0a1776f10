//! The commands, one file each: `Args` says what it takes, `run` does it. Here is what they share: naming a model,
//! opening it, progress, JSON, errors.

pub mod bench;
pub mod budget;
pub mod compile;
pub mod doctor;
pub mod eval;
pub mod explain;
pub mod inspect;
pub mod pareto;
mod precision;
pub mod run;
pub mod template;
pub mod tune;
pub mod verify;

use crate::signals;
use indicatif::{ProgressBar, ProgressStyle};
pub use precision::PrecisionArgs;
use satura::{
    Cache, Hub, Opened, Opening, Outline, Source,
    compiler::Stage,
    ir::{Target, UnknownTarget},
    runtime::devices::{self, cpu},
};
use serde_json::Value;
use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

/// A model to run, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArgs {
    /// A model directory (config.json, tokenizer.json, *.safetensors), a file that `satura compile` wrote, or an id of the
    /// Hugging Face hub (org/name); by default the small model built into satura
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,

    /// Threads to run on; by default one a core. Results do not depend on it
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    #[command(flatten)]
    pub precision: PrecisionArgs,

    /// Where to run: cpu, or cuda (NVIDIA's GPUs); by default what an artifact was compiled for, else the CPU
    #[arg(long, value_enum)]
    pub device: Option<Device>,

    /// Compile anew, and keep nothing in the cache folder
    #[arg(long)]
    pub no_cache: bool,

    #[command(flatten)]
    pub hub: HubArgs,
}

/// How models of the hub are found.
#[derive(Clone, Debug, clap::Args)]
pub struct HubArgs {
    /// Which version of a model of the hub: a branch, a tag or a commit
    #[arg(long, value_name = "REVISION", default_value = "main")]
    revision: String,

    /// Never use the network: a model of the hub is as it was when it was last fetched
    #[arg(long)]
    offline: bool,
}

impl HubArgs {
    /// What MODEL names; fetches it where it is on the hub, showing progress on a terminal. Warnings go to stderr.
    pub fn source(&self, model: Option<&str>) -> anyhow::Result<Source> {
        let bar = Progress::new();
        let (source, warning) = Source::find(model, &self.hub(), &|here, of| bar.bytes(here, of))?;
        drop(bar);
        if let Some(warning) = warning {
            eprintln!("warning: {warning}");
        }
        Ok(source)
    }

    /// What MODEL names, to be looked at while the outline is there: of a model of the hub that is not in the cache, only
    /// the headers of weights are fetched. Warnings go to stderr.
    pub fn outline(&self, model: Option<&str>) -> anyhow::Result<(Source, Option<Outline>)> {
        let id = match Source::here(model)? {
            Ok(source) => return Ok((source, None)),
            Err(id) => id,
        };
        let outline = self.hub().outline(id)?;
        if let Some(warning) = &outline.warning {
            eprintln!("warning: {warning}");
        }
        let source = Source::Directory(outline.directory.clone());
        Ok((source, Some(outline)))
    }

    fn hub(&self) -> Hub {
        let user = Hub::of_user();
        Hub {
            revision: self.revision.clone(),
            offline: user.offline || self.offline,
            ..user
        }
    }
}

impl ModelArgs {
    /// What MODEL names; see [`HubArgs::source`].
    pub fn source(&self) -> anyhow::Result<Source> {
        self.hub.source(self.model.as_deref())
    }

    /// Where compiled models and kernels are kept.
    pub fn cache(&self) -> Option<Cache> {
        Cache::of_user().filter(|_| !self.no_cache)
    }

    /// Opens the model `source`; compiles it first where need be, showing progress on a terminal. Warnings go to stderr.
    pub fn open(&self, source: &Source) -> anyhow::Result<Opened> {
        anyhow::ensure!(
            !matches!(source, Source::Artifact(_)) || self.precision == PrecisionArgs::default(),
            "{source}: is compiled already; --weights, --activations and --cache-type are for model directories"
        );
        signals::reading(&source.to_string());
        let bar = Progress::new();
        let opened = satura::open(
            source,
            &Opening {
                precision: self.precision.get()?,
                device: self.device.map(Into::into),
                cache: self.cache(),
                progress: &|stage, done, of| bar.show(stage, done, of),
            },
        )?;
        drop(bar);
        for warning in &opened.warnings {
            eprintln!("warning: {warning}");
        }
        Ok(opened)
    }
}

/// A machine to compile for, by name.
pub fn target(name: &str) -> Result<Target, UnknownTarget> {
    match name {
        "native" => Ok(cpu::host()),
        _ => name.parse(),
    }
}

/// Where models run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// This computer's processor
    Cpu,
    /// NVIDIA's GPUs
    Cuda,
}

impl From<Device> for devices::Device {
    fn from(device: Device) -> devices::Device {
        match device {
            Device::Cpu => devices::Device::Cpu,
            Device::Cuda => devices::Device::Cuda,
        }
    }
}

/// A progress bar on stderr, where that is a terminal; it goes when dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// Nothing to be seen yet.
    pub fn new() -> Progress {
        let bar = ProgressBar::new(1);
        let style = ProgressStyle::with_template("{msg:12} {bar:32} {pos}/{len}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress(bar)
    }

    /// Shows how far a stage of compilation is.
    pub fn show(&self, stage: Stage, done: u64, of: u64) {
        let what = match stage {
            Stage::Check => "checking",
            Stage::Optimize => "optimizing",
            Stage::Emit => "generating",
            Stage::Pack => "packing",
        };
        self.step(what, done as usize, of as usize);
    }

    /// Shows how much of a download is there.
    pub fn bytes(&self, here: u64, of: u64) {
        let style = ProgressStyle::with_template(
            "{msg:12} {bar:32} {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}",
        );
        if self.0.length() != Some(of) {
            self.0
                .set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.0.set_message("downloading");
            self.0.set_length(of);
        }
        self.0.set_position(here);
    }

    /// Shows how far any work is.
    pub fn step(&self, what: &'static str, done: usize, of: usize) {
        self.0.set_message(what);
        self.0.set_length(of as u64);
        self.0.set_position(done as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Prints one JSON object, all that a command with `--json` writes to its output.
pub fn print_json(value: &Value) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value:#}")?;
    Ok(())
}

/// A line on stderr for those who watch: dim on a terminal.
pub fn note(text: &str) {
    let terminal = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (dim, plain) = if terminal {
        ("\x1b[2m", "\x1b[0m")
    } else {
        ("", "")
    };
    // Nobody to read it is no reason to fail.
    let _ = writeln!(io::stderr(), "{dim}{text}{plain}");
}

/// How a command that failed ends: says on stderr what went wrong and why, without the causes that a message already
/// tells. A reader who has seen enough (`| head`) is no failure.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    let closed = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        return ExitCode::SUCCESS;
    }
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    let _ = writeln!(io::stderr(), "error: {told}");
    ExitCode::FAILURE
}

/// Milliseconds, to the microsecond.
pub fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// For people: `1.21 s`, `12.3 ms`.
pub fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s >= 1.0 => format!("{s:.2} s"),
        s => format!("{:.1} ms", s * 1e3),
    }
}

/// For people: `57.8 MB`. Powers of ten.
pub fn bytes(n: u64) -> String {
    scaled(n, "B")
}

/// For people: `27.8 M`.
pub fn count(n: u64) -> String {
    scaled(n, "")
}

fn scaled(n: u64, unit: &str) -> String {
    for (prefix, size) in [("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)] {
        if n as f64 >= size {
            return format!("{:.1} {prefix}{unit}", n as f64 / size);
        }
    }
    format!("{n} {unit}").trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let check = |n: u64, expected: &str| assert_eq!(bytes(n), expected);
        check(0, "0 B");
        check(999, "999 B");
        check(57_800_000, "57.8 MB");
        assert_eq!(count(27_800_000), "27.8 M");
        assert_eq!(count(12), "12");
        assert_eq!(time(Duration::from_millis(1210)), "1.21 s");
        assert_eq!(time(Duration::from_micros(12_340)), "12.3 ms");
    }
}
